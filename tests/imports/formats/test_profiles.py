"""The profiles: how they are found, described and told apart, and the formats beyond plain tables."""

import pytest

from app.imports.formats.assembly import Assembly
from app.imports.formats.day_table import DayTable
from app.imports.formats.interface import MeterReadings, Options
from app.imports.formats.parsed_file import profiles
from app.imports.formats.quantities import quantity
from app.imports.profiles.columns import DayColumns, resolve
from app.imports.profiles.header import Header
from app.imports.profiles.layouts import Days, Series
from tests.imports.formats.reading import MPAN, MPRN, NOW, OTHER, Taken, at, refusal
from tests.imports.formats.rendering import CLOCK_END, CLOCK_START, numbered, table
from tests.imports.formats.workbooks import DATE, STAMP, TIME, workbook

NAMES = (
    "voltwire", "octopus", "edf", "british-gas", "drax", "npower", "imserv", "stark", "sse", "perse",
    "d0036", "nem12",
    "green-button", "rows", "days",
)  # fmt: skip
DAY = ["0.25"] * 48


def test_each_profile_is_described_with_an_example() -> None:
    assert sorted(name for name, _ in profiles()) == sorted(NAMES)
    assert all("Example: " in description and len(description) < 600 for _, description in profiles())


def test_detection_says_what_was_decided_and_why() -> None:
    taken = Taken(table(["MPAN", "Units", "Date", *CLOCK_START], [[MPAN, "kWh", "01/03/2026", *DAY]]))
    assert taken.file.detection == (
        "Profile sse, because it has Units before 00:00 to 23:30: the header is in line 1, a row per day "
        "with 48 half-hours "
        'from column "00:00" on, UK local time by the clock, units as in column "Units". Volumes of gas are '
        "converted to kWh "
        "with a calorific value of 39.5 MJ/m³ (kWh = m³ × 1.02264 × calorific value / 3.6)."
    )


def test_unknown_file_is_told_what_was_looked_for_and_found() -> None:
    found = refusal("Name,Age\nAnn,7\n")
    assert (found.code, found.line) == ("UNKNOWN_FORMAT", 1)
    assert found.message == (
        "No profile fits this file. Looked for: D0036 (ZHV|), NEM12 (100,NEM12), Green Button XML, and in "
        "the first 15 lines a "
        "header with a meter, a date and 48 or 50 half-hours, or with a meter, a time and a value. Found in "
        "line 1: "
        '"Name", "Age". Choose the profile rows or days, and say by columns which header is what, as in '
        'columns={"meter":"MPAN","timestamp":"Read at","value":"kWh"}.'
    )
    found = refusal("Name,Age\nAnn,7\n", profile="sse")
    assert found.message.startswith("This is not a file of sse: SSE: MPAN, Units, Date and 00:00 to 23:30.")
    assert refusal("x", profile="ssse").message.startswith('There is no profile "ssse": choose voltwire, ')


def test_ambiguous_file_is_told_which_profiles_fit_and_what_tells_them_apart() -> None:
    header = ["MPAN", "Meter ID", "Type", "Est", "Date", "Meter Read Type", *CLOCK_END, "File Received At"]
    text = table(header, [[MPAN, "E1", "AI", "A", "01/03/2026", "AI", *DAY, ""]])
    found = refusal(text)
    assert (found.code, found.line) == ("AMBIGUOUS_FORMAT", 1)
    assert found.message == (
        "The header in line 1 fits several profiles. Choose one by profile. "
        "british-gas: it has meter_identifier and hh01 to hh48, or Meter Read Type and File Received At; "
        "stark: it has Meter ID, Type and Est before 00:30 to 00:00."
    )
    assert Taken(text, profile="stark").total() == 12_000_000


def test_household_file_is_taken_with_a_mapping() -> None:
    """Three categories per customer and day: general consumption and controlled load come from the grid."""
    header = ["Customer", "Generator Capacity", "Postcode", "Consumption Category", "date"]
    header += [f"{int(label[:2]) % 24}:{label[3:]}" for label in CLOCK_END]
    rows = [
        [str(customer), "3.78", "2076", category, f"{day}/07/2012", *[value] * 48, ""]
        for customer in (1, 2)
        for day in (1, 2)
        for category, value in (("GC", "0.3"), ("CL", "1.25"), ("GG", "0.1"))
    ]
    columns = {"serial": "Customer", "channel": "Consumption Category", "date": "date"}
    for ordered in (rows, sorted(rows, key=lambda row: (row[0], row[3]))):
        taken = Taken(table([*header, "Row Quality"], ordered), columns=columns)
        assert taken.problems == []
        assert taken.file.profile == "days"
        for customer in ("1", "2"):
            assert taken.total(customer) == 2 * 48 * 1_550_000
            assert taken.total(customer, "GENERATION") == 2 * 48 * 100_000
        assert min(taken.readings["1", "IMPORT"]) == at("2012-07-01T00:00")
        assert len(taken.readings["1", "IMPORT"]) == 96
    again = Taken(
        table([*header, "Row Quality"], [*rows[:3], rows[1]]), columns={**columns, "meter": "Customer"}
    )
    assert again.places == [("DUPLICATE", 5, None)]


def test_names_of_columns_that_are_not_there_are_refused() -> None:
    text = "Who,When,Much\n1,2026-03-01 00:00,2\n"
    assert Taken(text, columns={"meter": "Who", "timestamp": "When", "value": "Much"}).total("1") == 2_000_000
    assert 'there is no header "Whom" for meter' in refusal(text, columns={"meter": "Whom"}).message
    assert (
        'there is no role "who"; the roles are meter, '
        in refusal(text, profile="rows", columns={"who": "Who"}).message
    )


def test_columns_of_channels_go_to_their_channel() -> None:
    text = (
        "MPAN,Timestamp,Consumption (kWh),Export (kWh),Generation (kWh),Controlled Load (kWh)\n"
        f"{MPAN},2026-03-01 00:00,1,2,3,4\n{MPAN},2026-03-01 00:30,1,,,\n"
    )
    taken = Taken(text)
    assert [taken.total(MPAN, one) for one in ("IMPORT", "EXPORT", "GENERATION")] == [
        6_000_000,
        2_000_000,
        3_000_000,
    ]


def test_quantities_go_to_their_channel_or_are_left_out() -> None:
    header = ["Date", "MPAN", "MQ", *numbered("P", 50), *numbered("UT", 50)]
    rows = [
        ["2026-03-01", MPAN, one, *DAY, "", "", *["A"] * 48, "", ""] for one in ("AI", "AE", "RI", "RE", "??")
    ]
    taken = Taken(table(header, rows))
    assert taken.total(MPAN) == taken.total(MPAN, "EXPORT") == 12_000_000
    assert taken.counts.filtered == {"RI": 1, "RE": 1}
    assert taken.places == [("INVALID", 6, 3)]
    assert Taken(table(header, rows[:1]), channel=None).counts.filtered == {}


def test_flags_of_rows_and_values_mean_estimated() -> None:
    header = ["MPAN", "Meter ID", "Type", "Est", "Date", *CLOCK_END]
    rows = [
        [MPAN, "E1", "AI", flag, f"0{day}/03/2026", *DAY]
        for day, flag in ((1, "E"), (2, ""), (3, "Estimated"), (4, "A"))
    ]
    assert len(Taken(table(header, rows)).estimated()) == 96
    header = ["MPAN", "rdate", "TotalConsumptionKwh", "MaxDemand", "colStatuskwh", *numbered("Kwh", 48)]
    rows = [[MPAN, f"2026-03-0{day}", "12", "1", flag, *DAY] for day, flag in ((1, "E"), (2, "A"))]
    taken = Taken(table(header, rows))
    assert taken.file.profile == "npower"
    assert taken.estimated() == [at(f"2026-03-01T{label}") for label in CLOCK_START]


@pytest.mark.parametrize(
    ("header", "row", "profile"),
    [
        (
            [
                "ConsumerName",
                "MPR",
                "Date",
                *[f"H{label.replace(':', '')}" for label in CLOCK_END],
                "ReportingUnit",
            ],
            ["x", MPRN, "01/03/2026", *DAY, "kWh"],
            "days",
        ),
        (
            [
                "MPAN",
                "Date",
                "Actual or Estimate",
                "Measurement Quantity ID",
                *numbered("Consumption(KWh) HH", 48),
            ],
            [MPAN, "01/03/2026", "A", "AI", *DAY],
            "days",
        ),
        (["MPR", "ReadDatetime", "kWh", "ReadType"], [MPRN, "01/03/2026 00:30", "12", "A"], "rows"),
        (["MSN", "DateTime", "Kwh"], [MPRN, "2026-03-01 00:30:00", "12"], "rows"),
        (
            ["MPRN", "Date", "Time", "Meter Units", "Meter Start Read", "Consumption", "KWH"],
            [MPRN, "01/03/2026", "00:30", "kWh", "100", "1", "12"],
            "rows",
        ),
        (
            ["MPANCore", "Sett Date", "Sett Period", "Type", "Meter Read"],
            [MPRN, "01/03/2026", "2", "A", "12"],
            "rows",
        ),
    ],
)
def test_feeds_of_other_suppliers_are_taken_by_the_profiles_for_any(
    header: list[str], row: list[str], profile: str
) -> None:
    taken = Taken(table(header, [row]))
    assert taken.problems == []
    assert taken.file.profile == profile
    [meter] = {day.meter.text for day in taken.days}
    assert taken.total(meter) == 12_000_000


def test_workbooks_are_read_by_sheet() -> None:
    wide = [["MPAN", "Units", "Date", *[(number / 48, TIME) for number in range(48)]]]
    wide += [[float(MPAN), "kWh", (46082.0 + day, DATE), *[0.1 + 0.2] * 48] for day in range(2)]
    rows = [["MPAN", "Timestamp", "kWh"], [OTHER, (46082 + 1 / 48, STAMP), 0.5]]
    taken = Taken(workbook({"Notes": [["Dear all"]], "Wide": wide, "Rows": rows, "Empty": []}))
    assert taken.problems == []
    assert taken.file.profile == "sse"
    assert taken.total() == 96 * 300_000
    assert taken.counts.rounded == 96
    assert taken.readings[OTHER, "IMPORT"] == {at("2026-03-01T00:30"): (500_000, False)}
    assert {day.file for day in taken.days} == {"Wide", "Rows"}
    assert refusal(workbook({"Notes": [["Dear all"]]})).code == "UNKNOWN_FORMAT"


def test_moments_of_workbooks_keep_midnight() -> None:
    rows = [["MPAN", "Timestamp", "kWh"], *[[MPAN, (46082 + at / 48, STAMP), 0.5] for at in (0, 1)]]
    taken = Taken(workbook({"Rows": rows}))
    assert taken.problems == []
    assert list(taken.readings[MPAN, "IMPORT"]) == [at("2026-03-01T00:00"), at("2026-03-01T00:30")]
    built_in = '<styleSheet><cellXfs><xf/><xf/><xf/><xf numFmtId="22"/></cellXfs></styleSheet>'
    assert Taken(workbook({"Rows": rows}, {"xl/styles.xml": built_in})).readings == taken.readings


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("102|20260301|\n" + "103|A|1.5|\n" * 47, ("INVALID", 3, 2)),
        ("102|20241027|\n" + "103|A|1.5|\n" * 48, ("CLOCK_CHANGE", 3, 2)),
        ("102|20261301|\n" + "103|A|1.5|\n" * 48, ("BAD_DATE", 3, 2)),
        ("102|20260301|\n" + "103|A|x|\n" + "103|A|1.5|\n" * 47, ("BAD_VALUE", 4, 3)),
        ("777|\n", ("INVALID", 3, 1)),
    ],
)
def test_faults_of_d0036(lines: str, place: tuple[str, int, int]) -> None:
    text = f"ZHV|1|D0036001|C|UDMS|X|SUPP|20260302000000||||OPER|\n101|{MPAN}|AI|SUPP|\n{lines}"
    assert Taken(text + "ZPT|1|1|1|1|20260302000000|\n").places == [place]
    assert Taken(text).places == [place, ("INVALID", 0, None)]


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        ("300,20260301," + "1," * 47 + "A,,,20260302000000,", ("INVALID", 3, 50)),
        ("300,20260301," + "1," * 96 + "A,,,20260302000000,", ("INVALID", 3, 99)),
        ("300,20260332," + "1," * 48 + "A,,,20260302000000,", ("BAD_DATE", 3, 2)),
        ("300,20260301,x," + "1," * 47 + "A,,,20260302000000,", ("BAD_VALUE", 3, 3)),
        ("300,20260301," + "1," * 48 + "V,,,20260302000000,\n400,40,49,A,,", ("INVALID", 4, 2)),
        ("200,N1,E1,1,E1,N1,S,kWh,20,", ("INVALID", 3, 9)),
        ("200,N1,E1,1,E1,N1,S,furlong,30,", ("UNKNOWN_UNIT", 3, None)),
        ("600,1", ("INVALID", 3, 1)),
    ],
)
def test_faults_of_nem12(lines: str, place: tuple[str, int, int | None]) -> None:
    text = f"100,NEM12,202603020000,MDP,R\n200,6102000001,E1,1,E1,N1,S,kWh,30,\n{lines}\n"
    assert Taken(text + "900\n").places == [place]
    assert Taken(text).places == [place, ("INVALID", 0, None)]


def test_registers_of_nem12_are_added_up_by_direction() -> None:
    day = "300,20260301," + "{}," * 48 + "{},,,20260302000000,"
    lines = ["100,NEM12,202603020000,MDP,R"]
    for suffix, value, unit in (
        ("E1", "1", "kWh"),
        ("E2", "250", "Wh"),
        ("B1", "0.002", "MWh"),
        ("Q1", "9", "kVArh"),
    ):
        lines += [
            f"200,NMI0000001,E1E2B1Q1,1,{suffix},N1,S,{unit},30,",
            day.format(*[value] * 48, "S14" if suffix == "E2" else "A"),
        ]
    taken = Taken("\n".join([*lines, "900", ""]))
    assert taken.problems == []
    assert (taken.total("NMI0000001"), taken.total("NMI0000001", "EXPORT")) == (60_000_000, 96_000_000)
    assert len(taken.estimated("NMI0000001")) == 48
    assert min(taken.readings["NMI0000001", "IMPORT"]) == at("2026-02-28T14:00")
    assert Taken("\n".join([*lines[:3], "900"]).replace("A,,,", "N,,,")).readings == {}


def test_gaps_of_octopus_are_zero_only_in_the_files_that_leave_zeros_out() -> None:
    rows = [
        f"{value}, {start}, {start}"
        for value, start in (("0.1", "2026-03-01T00:00:00Z"), ("0.2", "2026-03-01T02:00:00Z"))
    ]
    later = "0.3, 2026-03-04T00:00:00Z, 2026-03-04T00:30:00Z"
    old = "Consumption (kwh), Start, End\n" + "\n".join([*rows, later])
    assert len(Taken(old, meter=MPAN).readings[MPAN, "IMPORT"]) == 3
    new = "Consumption (kwh), Start, End, Estimated Cost Inc. Tax (p)\n" + "\n".join(
        f"{one}, 1.2" for one in [*rows, later]
    )
    taken = Taken(new, meter=MPAN)
    assert sorted(taken.readings[MPAN, "IMPORT"]) == [
        at(f"2026-03-01T{label}") for label in ("00:00", "00:30", "01:00", "01:30", "02:00")
    ] + [at("2026-03-04T00:00")]
    assert (taken.total(), taken.counts.filled) == (600_000, 3)


def test_quarter_hours_and_export_of_green_button() -> None:
    def block(kind: str, values: list[tuple[int, int]]) -> str:
        readings = "".join(
            f"<IntervalReading><timePeriod><duration>900</duration><start>{start}</start></timePeriod><value>{value}</value>"
            "</IntervalReading>"
            for start, value in values
        )
        link = f'<link rel="up" href="/U/1/M/{kind}/IntervalBlock"/>'
        return f"<entry>{link}<IntervalBlock>{readings}</IntervalBlock></entry>\n"

    def described(kind: str, direction: int) -> str:
        return (
            f'<entry><link rel="self" href="/U/1/M/{kind}"/><link rel="up" href="/U/1/M"/>'
            f'<link rel="related" href="/R/{kind}"/><MeterReading/></entry><entry><link rel="self" '
            f'href="/R/{kind}"/><ReadingType>'
            f"<flowDirection>{direction}</flowDirection><uom>72</uom></ReadingType></entry>"
        )

    start = 1_772_323_200
    text = (
        f'<feed><entry><title>{MPAN}</title><link rel="self" href="/U/1"/><UsagePoint/></entry>'
        + described("1", 1)
        + described("2", 19)
        + block("1", [(start, 100), (start + 900, 150), (start + 1800, 7)])
        + block("2", [(start, 20), (start + 900, 30), (start + 900, 30), (start + 700, 1)])
        + "</feed>"
    )
    taken = Taken(text)
    assert taken.readings == {
        (MPAN, "IMPORT"): {at("2026-03-01T00:00"): (250_000, False)},
        (MPAN, "EXPORT"): {at("2026-03-01T00:00"): (50_000, False)},
    }
    assert taken.places == [("DUPLICATE", 2, None), ("INVALID", 2, None)]


def test_layout_may_date_its_days_later_than_they_are() -> None:
    header = Header(1, ["MPAN", "Date", *CLOCK_START])
    layout = Days(meter=("mpan",), date=("date",), values=Series("clock"), zone="utc", delay_days=1)
    columns = resolve(layout, header, {})
    assert isinstance(columns, DayColumns)
    assembly = Assembly(Options(now=NOW))
    DayTable(assembly, Options(now=NOW), layout, columns, "utc").add(2, [MPAN, "02/03/2026", *DAY])
    [day] = assembly.ready
    assert isinstance(day, MeterReadings)
    assert day.day == (at("2026-03-01T00:00") - at("1970-01-01T00:00")).days


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AI1", ("IMPORT", None)), ("Active Import kWh", ("IMPORT", None)), ("kWh Export", ("EXPORT", None)),
        ("RE02", (None, "RE02")), ("kVArh Lag", (None, "kVArh Lag")), ("Reactive Power", (None, "Reactive Power")),
        ("Maximum Demand", (None, "Maximum Demand")), ("kW", (None, "kW")), ("Gross Generation", ("GENERATION", None)),
    ],
)  # fmt: skip
def test_quantities_as_files_write_them(text: str, found: tuple[str | None, str | None]) -> None:
    known = quantity(text)
    assert known is not None
    assert (known.channel.value if known.channel is not None else None, known.filtered) == found


def test_other_quantities_are_unknown() -> None:
    assert [quantity(text) for text in ("Temperature", "E", "variable", "walk")] == [None] * 4
