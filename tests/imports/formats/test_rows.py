"""Tables with a row per reading."""

import pytest

from app.readings.enums import ReadingChannel
from tests.imports.formats.reading import MPAN, MPRN, Taken, at, refusal
from tests.imports.formats.rendering import CLOCK_START

HEADER = "meter_number,start_at,consumption,quality,channel\n"


def test_own_columns_are_taken_with_values_of_spreadsheets():
    taken = Taken(
        HEADER
        + f"{MPAN},2026-03-01T00:00:00Z,0.187,ACTUAL,\n"
        + f"{MPAN},2026-03-01T00:30:00Z,0.48200000000000004,ESTIMATED,IMPORT\n"
        + f'{MPAN},2026-03-01T01:00:00Z,"1,234.5",,EXPORT\n'
        + f"{MPAN},2026-03-01T02:30:00+01:00,0E-20,,EXPORT\n"
    )
    assert taken.problems == []
    assert taken.file.profile == "voltwire"
    assert taken.readings == {
        (MPAN, "IMPORT"): {at("2026-03-01T00:00"): (187_000, False), at("2026-03-01T00:30"): (482_000, True)},
        (MPAN, "EXPORT"): {
            at("2026-03-01T01:00"): (1_234_500_000, False),
            at("2026-03-01T01:30"): (0, False),
        },
    }
    assert taken.counts.rounded == 3


def test_rows_without_offset_in_the_hour_that_comes_twice_are_told_apart_by_their_order():
    labels = ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00")
    rows = [f"{MPAN},27/10/2024 {label},{number}\n" for number, label in enumerate(labels, 1)]
    expected = {
        at(f"2024-10-2{6 if number == 1 else 7}T{hour}"): (number * 1_000_000, False)
        for number, hour in enumerate(("23:30", "00:00", "00:30", "01:00", "01:30", "02:00"), 1)
    }
    for order in (rows, rows[::-1]):
        taken = Taken("MPAN,Timestamp,kWh\n" + "".join(order), timezone="london")
        assert taken.problems == []
        assert taken.readings == {(MPAN, "IMPORT"): expected}


def test_ends_of_half_hours_are_taken_as_ends() -> None:
    for header, columns in (
        ("MPAN,Interval End,kWh", {}),
        ("A,B,C", {"meter": "A", "end": "B", "value": "C"}),
    ):
        taken = Taken(f"{header}\n{MPAN},01/03/2026 00:30,1\n{MPAN},01/03/2026 24:00,2\n", columns=columns)
        assert taken.readings == {
            (MPAN, "IMPORT"): {
                at("2026-03-01T00:00"): (1_000_000, False),
                at("2026-03-01T23:30"): (2_000_000, False),
            }
        }


def test_channel_and_unit_of_the_caller_are_those_of_rows_that_name_none() -> None:
    text = "Consumption (m³), Start, End\n1, 2026-03-01T00:00:00Z, 2026-03-01T00:30:00Z\n"
    assert Taken(text, meter=MPRN).total(MPRN) == 11_220_633
    assert (
        Taken(text, meter=MPRN, unit="kWh", channel=ReadingChannel.EXPORT).total(MPRN, "EXPORT") == 1_000_000
    )


@pytest.mark.parametrize(
    "content",
    [
        "Date,Time,kWh\n2026-03-01,00:30,1.5\n",
        f"Date,{','.join(CLOCK_START)}\n2026-03-01,{',1.5' + ',' * 46}\n",
    ],
)
def test_files_that_name_no_meter_are_of_the_one_that_the_caller_names(content: str) -> None:
    taken = Taken(content, meter=MPAN)
    assert taken.readings == {(MPAN, "IMPORT"): {at("2026-03-01T00:30"): (1_500_000, False)}}
    assert refusal(content).code == "UNKNOWN_FORMAT"


def test_headers_in_between_are_passed_over_and_rows_of_other_widths_are_not() -> None:
    row = f"{MPAN},2026-03-01T00:00:00Z,1,,\n"
    taken = Taken(HEADER + row + HEADER + f"{MPAN},2026-03-01T00:30:00Z,1\n{MPAN},2026-03-01T01:00:00Z\n")
    assert taken.places == [("INVALID", 5, None)]
    assert (taken.counts.rows, taken.total()) == (3, 2_000_000)


def test_rows_that_wait_for_their_day_are_bounded_and_come_in_parts() -> None:
    """Half-hours of one day, far apart in the file, are two parts of it."""
    first = "".join(f"Site {number},2026-03-01 00:00,1\n" for number in range(20_001))
    taken = Taken("Meter,Timestamp,kWh\n" + first + "Site 0,2026-03-01 00:30,2\nSite 0,2026-03-01 00:00,2\n")
    assert [one.code for one in taken.problems] == ["DUPLICATE"]
    assert taken.total("Site 0") == 3_000_000
    assert sum(1 for day in taken.days if day.meter.text == "Site 0") == 2
