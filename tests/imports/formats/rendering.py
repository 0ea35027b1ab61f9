"""Writes half-hours as each profile's files have them: the other way round from what is tested, and by other means."""

import random
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from app.core.decimals import format_micro
from tests.imports.formats.reading import MPAN, Reading

UK = ZoneInfo("Europe/London")
HALF_HOUR = timedelta(minutes=30)

Half = tuple[datetime, Reading]
Days = list[tuple[date, list[Reading]]]

CLOCK_START = [f"{minutes // 60:02}:{minutes % 60:02}" for minutes in range(0, 1440, 30)]
CLOCK_END = [f"{minutes // 60:02}:{minutes % 60:02}" for minutes in range(30, 1441, 30)]


def year(seed: int, first: date = date(2023, 11, 1), days: int = 366) -> list[Half]:
    """A year of a meter from a UK midnight on, with both clock changes, zeros, odd decimals and estimates."""
    chosen = random.Random(seed)
    start = datetime.combine(first, datetime.min.time(), UK).astimezone(UTC)
    end = datetime.combine(first + timedelta(days=days), datetime.min.time(), UK).astimezone(UTC)
    halves = []
    while start < end:
        micro = chosen.choice((chosen.randrange(3_000) * 1000, chosen.randrange(3_000_000), 0, 5_250_000))
        halves.append((start, (micro, chosen.random() < 0.05)))
        start += HALF_HOUR
    return halves


def by_day(halves: Iterable[Half], zone: str) -> Days:
    """The half-hours of each day of a zone: `utc`, `local` or `market`, which is UTC+10."""
    found: dict[date, list[Reading]] = {}
    for start, reading in halves:
        when = {"utc": start, "local": start.astimezone(UK), "market": start + timedelta(hours=10)}[zone]
        found.setdefault(when.date(), []).append(reading)
    return list(found.items())


def whole(halves: list[Half], zone: str) -> list[Half]:
    """Half-hours of whole days: a year of the UK ends within a day of another zone."""
    days = dict(by_day(halves, zone))
    first, last = min(days), max(days)
    whole_days = {one for one, readings in days.items() if one not in (first, last) or len(readings) == 48}
    shift = {"utc": timedelta(0), "market": timedelta(hours=10)}[zone]
    return [half for half in halves if (half[0] + shift).date() in whole_days]


def forty_eight(readings: list[Reading], blanks: tuple[int, int]) -> list[Reading | None]:
    """48 columns of a day of 46 with two blanks."""
    columns: list[Reading | None] = list(readings)
    if len(columns) == 46:
        for at in blanks:
            columns.insert(at, None)
    return columns


def padded(readings: list[Reading]) -> list[Reading | None]:
    return [*readings, *[None] * (50 - len(readings))]


def kwh(reading: Reading | None) -> str:
    return format_micro(reading[0]) if reading is not None else ""


def flag(reading: Reading | None) -> str:
    return "" if reading is None else "E" if reading[1] else "A"


def numbered(prefix: str, count: int, zeros: int = 0) -> list[str]:
    return [f"{prefix}{number:0{zeros}}" for number in range(1, count + 1)]


def table(header: list[str], rows: Iterable[list[str]], separator: str = ",") -> str:
    return "".join(f"{separator.join(one)}\r\n" for one in [header, *rows])


def total(readings: list[Reading]) -> str:
    return format_micro(sum(amount for amount, _ in readings))


def edf(days: Days) -> str:
    header = ["MPAN", "Date (UTC)", "Total kWh", *[one for label in CLOCK_START for one in (label, "Type")]]
    return table(
        header,
        (
            [MPAN, f"{day:%d/%m/%Y}", total(of), *[one for each in of for one in (kwh(each), flag(each))]]
            for day, of in days
        ),
    )


def british_gas(days: Days) -> str:
    header = ["meter_identifier", "serial_number", "read_date", *numbered("hh", 48, 2)]
    return table(
        header,
        ([MPAN, "E10", f"{day}", *map(kwh, forty_eight(of, (46, 47)))] for day, of in days),
    )


def british_gas_portal(days: Days) -> str:
    header = ["MPAN", "Read Date", "Meter Read Type", *CLOCK_END, "File Received At"]
    rows = [
        [MPAN, f"{day:%d/%m/%Y}", "AI", *map(kwh, forty_eight(of, (2, 3))), "2026-01-01 04:00"]
        for day, of in days
    ]
    rows.insert(1, [MPAN, f"{days[0][0]:%d/%m/%Y}", "RI", *["9.9"] * 48, "2026-01-01 04:00"])
    return "Half-hourly data\nAccount,12\n\n" + table(header, rows)


def drax(days: Days) -> str:
    header = ["MPAN", "Date", *numbered("HH", 50), "Total", *numbered("HH", 50)]
    return table(
        header,
        (
            [MPAN, f"{day:%d/%m/%Y}", *map(kwh, padded(of)), total(of), *map(flag, padded(of))]
            for day, of in days
        ),
    )


def npower(days: Days) -> str:
    header = ["mpan", "rdate", "TotalConsumptionKwh", "MaxDemand", "colStatuskwh", *numbered("Kwh", 48)]
    return table(
        header,
        (
            [MPAN, f"{day:%d/%m/%Y}", total(of), "0", "A", *map(kwh, forty_eight(of, (46, 47)))]
            for day, of in days
        ),
    )


def npower_weekly(days: Days) -> str:
    labels = [str(int(label.replace(":", ""))) for label in CLOCK_END]
    return table(
        ["MPAN", "DATE", *labels],
        ([MPAN, f"{day:%d-%b-%y}", *map(kwh, forty_eight(of, (2, 3)))] for day, of in days),
    )


def imserv(days: Days) -> str:
    header = ["Site Id", "Meter Number", "Data Type", "Reading Date"]
    header += [one for label in CLOCK_END for one in (label, "DQ Flag")]
    return table(
        header,
        (
            [
                MPAN, "E10BG", "kWh", f"{day:%d/%m/%Y}",
                *[one for each in forty_eight(of, (1, 2)) for one in (kwh(each), flag(each))],
            ]
            for day, of in days
        ),
    )  # fmt: skip


def stark(days: Days) -> str:
    header = ["Site", "MPAN", "Meter ID", "Type", "Est", "Date", *CLOCK_END[:-1], "00:00"]
    preamble = "".join(f"Report line {number},,\n" for number in range(1, 9))
    return preamble + table(
        header,
        (
            ['"Mill, north"', MPAN, "E10", "AI", "", f"{day:%d/%m/%y}", *map(kwh, forty_eight(of, (2, 3)))]
            for day, of in days
        ),
    )  # fmt: skip


def sse(days: Days) -> str:
    rows = [[MPAN, "kWh", f"{day:%d/%m/%Y}", *map(kwh, forty_eight(of, (2, 3)))] for day, of in days]
    rows.insert(1, [MPAN, "LAG", f"{days[0][0]:%d/%m/%Y}", *["9.9"] * 48])
    return table(["MPAN", "Units", "Date", *CLOCK_START], rows)


def perse(days: Days) -> str:
    header = ["Date", "MPAN", "MQ", *numbered("P", 50), *numbered("UT", 50)]
    rows = [[f"{day}", MPAN, "AI", *map(kwh, padded(of)), *map(flag, padded(of))] for day, of in days]
    return table(header, rows[::-1])


def any_days(days: Days) -> str:
    header = ["MPAN", "Day", *numbered("Period ", 50)]
    return table(header, ([MPAN, f"{day:%Y%m%d}", *map(kwh, padded(of))] for day, of in days), ";")


def d0036(days: Days) -> str:
    lines = ["ZHV|0001|D0036001|C|UDMS|X|SUPP|20260101000000||||OPER|", f"101|{MPAN}|AI|SUPP|"]
    for day, of in days:
        lines += [f"102|{day:%Y%m%d}|", *[f"103|{flag(each)}|{kwh(each)}|" for each in of]]
    lines += [f"101|{MPAN}|RI|SUPP|", f"102|{days[0][0]:%Y%m%d}|", "103|A|7.7|"]
    return "\n".join([*lines, "ZPT|0001|1|1|1|20260101000000|", ""])


def nem12(days: Days) -> str:
    """Each half-hour in two of fifteen minutes, with its quality in 400 records."""
    lines = ["100,NEM12,202601010000,MDP,RETAILER", f"200,{MPAN},E1Q1,1,E1,N1,01009,kWh,15,"]
    for day, of in days:
        parts = [one for amount, _ in of for one in (amount // 2, amount - amount // 2)]
        lines.append(
            ",".join(["300", f"{day:%Y%m%d}", *map(format_micro, parts), "V", "", "", "20260101000000", ""])
        )
        lines += [
            f"400,{2 * at + 1},{2 * at + 2},{'S14' if estimated else 'A'},32,"
            for at, (_, estimated) in enumerate(of)
        ]
    lines += [f"200,{MPAN},E1Q1,2,Q1,N2,01009,kVArh,15,", "300,20240101," + "1," * 96 + "A,,,,", "900", ""]
    return "\n".join(lines)


def voltwire(halves: list[Half]) -> str:
    rows = (
        [MPAN, f"{start:%Y-%m-%dT%H:%M:%SZ}", kwh(reading), "ESTIMATED" if reading[1] else "ACTUAL"]
        for start, reading in halves
    )
    return table(["meter_number", "start_at", "consumption", "quality"], rows)


def octopus(halves: list[Half]) -> str:
    """Half-hours of zero are left out, but the first and the last."""
    rows = []
    for at, (start, reading) in enumerate(halves):
        if reading[0] or at in (0, len(halves) - 1):
            local = start.astimezone(UK)
            rows.append(
                [
                    kwh(reading),
                    " " + local.isoformat(),
                    " " + (start + HALF_HOUR).astimezone(UK).isoformat(),
                    " 1.5",
                    " 0",
                ]
            )
    header = [
        "Consumption (kwh)",
        " Start",
        " End",
        " Estimated Cost Inc. Tax (p)",
        " Standing Charge Inc. Tax (p)",
    ]
    return table(header, [["0E-20", *row[1:]] if row[0] == "0" else row for row in rows])


def rows_utc(halves: list[Half]) -> str:
    rows = ([f"{start:%b %d %Y %I:%M%p}", MPAN, kwh(reading), flag(reading)] for start, reading in halves)
    return table(["ReadDateTime_UTC", "MPAN", "Consumption", "Quality"], rows, "\t")


def rows_london(halves: list[Half]) -> str:
    rows = (
        [MPAN, f"{start.astimezone(UK):%d/%m/%Y}", f"{start.astimezone(UK):%H:%M}", kwh(reading)]
        for start, reading in halves
    )
    return table(["MPAN", "Date", "Time", "kWh"], rows)


def rows_settlement(halves: list[Half]) -> str:
    rows = [
        [MPAN, f"{day:%d-%m-%Y}", str(period), flag(reading), kwh(reading)]
        for day, of in by_day(halves, "local")
        for period, reading in enumerate(of, 1)
    ]
    return table(["MPANCore", "Sett Date", "Sett Period", "Type", "Meter Read"], rows)


def green_button(halves: list[Half]) -> str:
    blocks = []
    for at in range(0, len(halves), 48):
        readings = "".join(
            f"<IntervalReading><ReadingQuality><quality>{8 * estimated}</quality></ReadingQuality>"
            f"<timePeriod><duration>1800</duration><start>{int(start.timestamp())}</start></timePeriod>"
            f"<value>{amount}</value></IntervalReading>"
            for start, (amount, estimated) in halves[at : at + 48]
        )
        blocks.append(
            '<entry><link rel="up" '
            'href="/U/1/MeterReading/1/IntervalBlock"/><content><IntervalBlock><interval/>'
            f"{readings}</IntervalBlock></content></entry>\n"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom" '
        'xmlns:espi="http://naesb.org/espi">'
        f'<entry><title>{MPAN}</title><link rel="self" '
        f'href="/U/1"/><content><espi:UsagePoint/></content></entry>'
        '<entry><link rel="self" href="/U/1/MeterReading/1"/><link rel="up" href="/U/1/MeterReading"/>'
        '<link rel="related" href="/R/7"/><content><espi:MeterReading/></content></entry>'
        + "".join(blocks)
        + '<entry><link rel="self" href="/R/7"/><content><espi:ReadingType><espi:flowDirection>1</espi:flowDirection>'
        "<espi:powerOfTenMultiplier>-3</espi:powerOfTenMultiplier><espi:uom>72</espi:uom></espi:ReadingType></content></entry>"
        "</feed>"
    )


BY_DAY: dict[str, tuple[Callable[[Days], str], str, bool, bool]] = {
    # The zone of its days, whether October's long day fits, and whether each value has a flag.
    "edf": (edf, "utc", True, True),
    "british-gas": (british_gas, "local", False, False),
    "british-gas portal": (british_gas_portal, "local", False, False),
    "drax": (drax, "local", True, True),
    "npower": (npower, "local", False, False),
    "npower weekly": (npower_weekly, "local", False, False),
    "imserv": (imserv, "local", False, True),
    "stark": (stark, "local", False, False),
    "sse": (sse, "local", False, False),
    "perse": (perse, "local", True, True),
    "days": (any_days, "local", True, False),
    "d0036": (d0036, "local", True, True),
    "nem12": (nem12, "market", True, True),
}
BY_ROW: dict[str, tuple[Callable[[list[Half]], str], bool]] = {
    "voltwire": (voltwire, True),
    "octopus": (octopus, False),
    "rows utc": (rows_utc, True),
    "rows london": (rows_london, False),
    "rows settlement": (rows_settlement, True),
    "green-button": (green_button, True),
}
