"""Tables with a row per reading."""

from tests.imports.formats.reading import MPAN, Taken, at

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
