"""Faults of real files: each has its sentence, with line and column."""

import gzip

import pytest

from tests.imports.formats.reading import MPAN, MPRN, OTHER, Taken, at, refusal
from tests.imports.formats.rendering import CLOCK_START, numbered, table

HEADER = ["MPAN", "Units", "Date", *CLOCK_START]
DAY = ["0.5"] * 48


def sse(*rows: list[str], separator: str = ",") -> str:
    return table(HEADER, rows, separator)


def row(date: str = "01/03/2026", mpan: str = MPAN, values: list[str] = DAY, unit: str = "kWh") -> list[str]:
    return [mpan, unit, date, *values]


def with_value(value: str, column: int = 10) -> list[str]:
    return [*DAY[:column], value, *DAY[column + 1 :]]


@pytest.mark.parametrize(
    ("wrong", "code", "column", "sentence"),
    [
        (row(date=""), "BAD_DATE", 3, "The date is missing."),
        (
            row(date="31/02/2026"),
            "BAD_DATE",
            3,
            'The date is no date of the calendar: "31/02/2026"; the day comes first.',
        ),
        (
            row(date="3/31/2026"),
            "BAD_DATE",
            3,
            'The date is no date of the calendar: "3/31/2026"; the day comes first.',
        ),
        (row(date="soon"), "BAD_DATE", 3, 'The date is in no known format: "soon"; write it as 31/12/2026.'),
        (
            row(date="27/11/2026"),
            "OUT_OF_RANGE",
            4,
            "2026-11-27T23:30:00.000Z is in the future: a half-hour is read once it has begun.",
        ),
        (row(mpan=""), "REQUIRED", 1, "The meter is missing."),
        (
            row(mpan="none yet"),
            "INVALID_METER_NUMBER",
            1,
            '"none yet" is no meter number: an MPAN has 13 digits, an MPRN 6 to 10.',
        ),
        (
            row(mpan="2.5E+12"),
            "INVALID_METER_NUMBER",
            1,
            (
                "2.5E+12 is a number that Excel has cut: its last digits are lost. Format the column as text "
                "and export again."
            ),
        ),
        (
            row(mpan="2499999999990"),
            "INVALID_METER_NUMBER",
            1,
            '"2499999999990": The check digit of this electricity number is wrong: compare it with the bill.',
        ),
        (row(values=[""] * 48), "REQUIRED", 4, "This row has no readings."),
        (row(values=DAY[:47]), "INVALID", None, "This row has 47 readings, and this day 48 half-hours."),
        (row(values=[*DAY, "7"]), "INVALID", 52, "This row has 52 cells, the header 51."),
        (row(unit="furlongs"), "UNKNOWN_UNIT", 2, 'There is no unit "furlongs" that is known here.'),
        (
            row(values=with_value("-0.5")),
            "BAD_VALUE",
            14,
            "The value is negative: -0.5; energy that is given back belongs to the channel EXPORT.",
        ),
        (
            row(values=with_value("=A1*2")),
            "BAD_VALUE",
            14,
            "The value is a formula: export the values instead.",
        ),
        (row(values=with_value("#REF!")), "BAD_VALUE", 14, 'The value is no number: "#REF!".'),
        (
            row(values=with_value("1e400")),
            "BAD_VALUE",
            14,
            'The value has more than 12 digits before the point: "1e400".',
        ),
        (
            row(values=with_value("4294967.295")),
            "BAD_VALUE",
            14,
            "4294967.295 is no measurement: meters and networks send it where they have no value.",
        ),
        (
            row(values=with_value("8590.017")),
            "BAD_VALUE",
            14,
            "8590.017 is no measurement: meters and networks send it where they have no value.",
        ),
        (
            row(values=with_value("50.001")),
            "BAD_VALUE",
            14,
            (
                "50.001 kWh in half an hour is over 100 times this meter's median of 0.5 kWh: it is taken for a "
                "fault."
            ),
        ),
        (
            row(date="28/02/2026"),
            "DUPLICATE",
            None,
            (
                "Half-hours of 28 February 2026 (UTC) are given twice for this meter: the first ones count. "
                "Leave one of the rows out."
            ),
        ),
        (
            row(values=with_value('"0.5')),
            "INVALID",
            None,
            'The quotes of this line do not fit: write " around a whole cell, and "" for a quote inside it.',
        ),
    ],
)
def test_row_is_refused(wrong: list[str], code: str, column: int | None, sentence: str) -> None:
    taken = Taken(sse(row("28/02/2026"), wrong))
    [problem] = taken.problems
    assert (problem.line, problem.column, problem.code, problem.message) == (3, column, code, sentence)
    assert (taken.counts.rows, taken.counts.refused) == (2, 1)
    # A wrong value leaves the others of its day; a wrong row leaves the others of the file.
    values = 47 if code == "BAD_VALUE" else 0
    assert taken.counts.readings == 48 + values


@pytest.mark.parametrize(
    ("profile", "date", "count", "sentence"),
    [
        (
            "sse",
            "27/10/2024",
            48,
            (
                "27 October 2024 has 25 hours in the UK, so 50 half-hours, and this row has 48. Choose "
                "timezone=utc if the file is in UTC or in GMT all year; else get this day with 50 values."
            ),
        ),
        (
            "sse",
            "31/03/2024",
            48,
            (
                "31 March 2024 has 23 hours in the UK, so 46 half-hours, and this row has 48. Choose "
                "timezone=utc if the file is in UTC or in GMT all year; else get this day with 46 values."
            ),
        ),
        (
            "perse",
            "2024-10-27",
            48,
            (
                "27 October 2024 has 25 hours in the UK, so 50 half-hours, and this row has 48. Choose "
                "timezone=utc if the file is in UTC or in GMT all year; else get this day with 50 values."
            ),
        ),
        (
            "perse",
            "2024-03-31",
            48,
            (
                "31 March 2024 has 23 hours in the UK, so 46 half-hours, and this row has a value for half-hour "
                "48. Choose timezone=utc if the file is in UTC or in GMT all year; else get this day with 46 "
                "values."
            ),
        ),
        (
            "perse",
            "2024-05-01",
            50,
            (
                "1 May 2024 has 24 hours in the UK, so 48 half-hours, and this row has a value for half-hour "
                "50. Choose timezone=utc if the file is in UTC or in GMT all year; else get this day with 48 "
                "values."
            ),
        ),
    ],
)
def test_day_of_a_clock_change_with_another_count_is_refused(
    profile: str, date: str, count: int, sentence: str
) -> None:
    if profile == "sse":
        text = sse(row(date))
    else:
        header = ["Date", "MPAN", "MQ", *numbered("P", 50), *numbered("UT", 50)]
        text = table(header, [[date, MPAN, "AI", *["1"] * count, *[""] * (50 - count), *["A"] * 50]])
    taken = Taken(text)
    assert [(one.code, one.line, one.column, one.message) for one in taken.problems] == [
        ("CLOCK_CHANGE", 2, 4, sentence)
    ]
    assert taken.readings == {}
    if count == 48:
        assert Taken(text, timezone="utc").counts.readings == 48


def test_rows_of_the_hour_that_comes_twice_or_is_skipped_are_refused_where_the_file_has_it_once() -> None:
    for label, code in (("27/10/2024 01:30", "CLOCK_CHANGE"), ("31/03/2024 01:30", "CLOCK_CHANGE")):
        text = f"MPAN,Timestamp,kWh\n{MPAN},{label},1\n"
        taken = Taken(text, timezone="london")
        assert taken.places == [(code, 2, 2)]
        assert Taken(text).total() == 1_000_000


def test_long_day_of_settlement_rows_with_48_periods_is_refused() -> None:
    def text(count: int) -> str:
        rows = [[MPAN, "27/10/2024", str(number), "1"] for number in range(1, count + 1)]
        return table(["MPAN", "Sett Date", "Sett Period", "kWh"], rows)

    taken = Taken(text(48), timezone="settlement")
    assert {one.code for one in taken.problems} == {"CLOCK_CHANGE"}
    assert taken.readings == {}
    assert Taken(text(48), timezone="utc").total() == 48_000_000
    assert Taken(text(50), timezone="settlement").total() == 50_000_000


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.replace("MPAN,", "MP\0AN,").encode(),
        lambda text: text.replace("\r\n", "\r").encode(),
        lambda text: text.replace("\r\n", "\n", 1).replace("\r\n", "\r", 1).encode(),
        lambda text: text.replace("\r\n", "\r\n\r\n , \r\n\n").encode(),
        lambda text: ("sep=;\r\n" + text.replace(",", ";")).encode(),
        lambda text: text.replace(",", "\t").encode(),
        lambda text: text.replace(",", "|").encode(),
        lambda text: ('"' + text.replace(",", '","').replace("\r\n", '"\r\n"').removesuffix('"')).encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: gzip.compress(text.encode()[:300]) + gzip.compress(text.encode()[300:]) + b"\0" * 9,
        lambda text: text.replace("kWh", "kWh\xa0").encode("cp1252"),
    ],
)
def test_spelling_of_the_file_makes_no_difference(encode) -> None:
    taken = Taken(encode(sse(row("01/03/2026"), row("02/03/2026"))))
    assert taken.problems == []
    assert taken.file.profile == "sse"
    assert taken.total() == 48_000_000


def test_spreadsheets_values_are_rounded_and_counted() -> None:
    odd = ["0.48200000000000004", "0E-20", '"1,234.5"', "1e-3", "+2", "0.0000005", "0.0000015", ".5", "3."]
    taken = Taken(sse(row(values=[*odd, *["5000"] * 39])))
    assert taken.problems == []
    amounts = [amount for _, (amount, _) in sorted(taken.readings[MPAN, "IMPORT"].items())]
    assert amounts[:9] == [482_000, 0, 1_234_500_000, 1_000, 2_000_000, 0, 2, 500_000, 3_000_000]
    assert taken.counts.rounded == 7


def test_decimal_commas_are_read_where_semicolons_separate() -> None:
    taken = Taken(sse(row(values=["0,25", "1.234,5", *["95"] * 46]), separator=";"))
    assert taken.total() == 250_000 + 1_234_500_000 + 46 * 95_000_000


@pytest.mark.parametrize(
    ("unit", "micro"),
    [
        ("kWh", 48_000_000),
        ("Wh", 48_000),
        ("MWh", 48_000_000_000),
        ("m3", 538_590_384),
        ("ft3", 15_251_136),
        ("hcf", 1_525_115_664),
    ],
)
def test_units_are_converted(unit: str, micro: int) -> None:
    taken = Taken(sse(row(mpan=MPRN, values=["1"] * 48, unit=unit)))
    assert taken.total(MPRN) == micro
    assert "calorific value of 39.5 MJ/m³" in taken.file.detection


def test_gas_by_the_callers_calorific_value() -> None:
    """120 m³ at 40 MJ/m³ are 1363.52 kWh."""
    text = f"MPRN,Timestamp,Volume\n{MPRN},2026-03-01 00:00,120\n"
    taken = Taken(text, unit="m3", calorific_value="40")
    assert taken.total(MPRN) == 1_363_520_000
    assert "calorific value of 40 MJ/m³" in taken.file.detection
    assert refusal(text, unit="m3", calorific_value="4").code == "BAD_VALUE"
    assert refusal(text, unit="acres").code == "UNKNOWN_UNIT"


def test_meters_are_named_by_numbers_in_any_spelling() -> None:
    spellings = (
        "2499999999991",
        "001112222499999999991",
        "24 9999 9999 991",
        "'2499999999991",
        '="2499999999991"',
        "2499999999991.0",
    )
    rows = [[one, f"2026-03-0{number}T00:00:00Z", "1"] for number, one in enumerate(spellings, 1)]
    taken = Taken("MPAN,Start,kWh\n" + "".join(",".join(one) + "\n" for one in rows))
    assert taken.problems == []
    assert [day.meter for day in taken.days] == [("mpan", MPAN)] * 6


def test_meters_by_our_id_serial_number_caller_and_file_name() -> None:
    assert Taken("meter_id,start_at,consumption\nmtr_1,2026-03-01T00:00:00Z,1\n").days[0].meter == (
        "id",
        "mtr_1",
    )
    text = "ReadDateTime_UTC,MeterSerialNumber,Consumption\n01/03/2026 00:00,E10BG1,1\n"
    assert Taken(text).days[0].meter == ("serial", "E10BG1")
    octopus = "Consumption (kwh), Start, End\n 0.187, 2026-05-25T22:30:00+01:00, 2026-05-25T23:00:00+01:00\n"
    assert Taken(octopus).days[0].meter == ("none", "")
    assert Taken(octopus, meter=OTHER).days[0].meter == ("mpan", OTHER)
    assert Taken(octopus, file_name=f"x_{MPAN}-may.csv").days[0].meter == ("mpan", MPAN)


def test_impossible_value_is_judged_by_the_whole_file() -> None:
    """The first day of a works that was shut is no measure of it."""
    days = [
        row("01/03/2026", values=["0.1"] * 47 + ["80"]),
        *[row(f"{day:02}/03/2026", values=["60"] * 48) for day in range(2, 9)],
    ]
    taken = Taken(sse(*days))
    assert taken.problems == []
    assert taken.readings[MPAN, "IMPORT"][at("2026-03-01T23:30")] == (80_000_000, False)
