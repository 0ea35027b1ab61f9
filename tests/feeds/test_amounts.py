"""Values of a source: exact millionths of a kWh, and the meaning of all that is no reading."""

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.decimals import MICRO
from app.feeds import amounts as module
from app.feeds.amounts import SMART_METER_MOST, Amounts, Unit, micro_of
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.shapes import items, record, records, text
from app.feeds.source import MissingPeriod, Window
from app.feeds.stand_ins.households import half_hour, instant_of
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = Window(START, START + timedelta(days=1))
FIRST = half_hour(START)
IMPORT = ReadingChannel.IMPORT
STANDS_FOR_NONE = "The source gave 16777.215 for this half-hour, which stands for no value."


def gathered(unit: Unit | None = None) -> Amounts:
    return Amounts(DAY, IMPORT, unit or Unit())


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, 0),
        (0.0, 0),
        (0.187, 187_000),
        ("0.187", 187_000),
        (" 12 ", 12_000_000),
        (0.1 + 0.2, 300_000),
        (0.44692835, 446_928),
        (0.1234565, 123_456),
        (0.1234575, 123_458),
        (1e-20, 0),
        ("0E-20", 0),
        (1e-300, 0),
        (999_999.999999, 999_999_999_999),
        (None, module.NO_VALUE),
        ("", module.NO_VALUE),
        (-0.001, module.NEGATIVE),
        (-0.0, 0),
        (True, module.NO_NUMBER),
        ("NaN", module.NO_NUMBER),
        ("Infinity", module.NO_NUMBER),
        ("twelve", module.NO_NUMBER),
        ("1" * 50, module.NO_NUMBER),
        (10**60, module.NO_NUMBER),
        (1e300, "The source gave 1e+300 for this half-hour, which no meter counts."),
        (16777.215, STANDS_FOR_NONE),
        ("16777.215", STANDS_FOR_NONE),
    ],
)
def test_a_value_is_millionths_or_the_reason_why_it_is_none(value: Any, found: int | str) -> None:
    assert micro_of(value) == found


@pytest.mark.parametrize("value", [[], {}, [0.2], {"value": 0.2}])
def test_a_list_where_a_number_belongs_makes_the_answer_unreadable(value: Any) -> None:
    with pytest.raises(SourceFailure) as raised:
        micro_of(value)
    assert raised.value.meaning is Meaning.RETRY


@given(st.lists(st.floats(0, 1_000, allow_nan=False) | st.integers(0, 1_000), min_size=1, max_size=48))
def test_many_values_are_read_as_each_of_them(values: list[float]) -> None:
    together = gathered()
    together.put_all(range(FIRST, FIRST + len(values)), values)
    expected = [int((Decimal(str(value)) * MICRO).to_integral_value(ROUND_HALF_EVEN)) for value in values]
    assert together.columns() == Columns(
        list(range(FIRST, FIRST + len(values))), expected, [False] * len(values)
    )


@pytest.mark.parametrize("name", ["m3", "ft3", "hcf", "wh", "mwh", "kwh"])
def test_many_values_of_a_unit_are_converted_as_each_of_them(name: str) -> None:
    values = [0.0, 0.001, 0.123, 1.5, 2, 0.0009995]
    together, apart = gathered(Unit(name, "39.2")), gathered(Unit(name, "39.2"))
    together.put_all(range(FIRST, FIRST + 6), values)
    for place, value in enumerate(values):
        apart.put(FIRST + place, value)
    assert together.columns() == apart.columns()
    assert len(together.columns().starts) == 6


PAGE = st.dictionaries(st.integers(-2, 50), st.sampled_from([0.1, 0.25, 3, None, -1, 16777.215]), max_size=20)


@given(st.lists(PAGE, max_size=4), st.booleans())
def test_pages_are_read_as_each_of_their_values(pages: list[dict[int, Any]], ascending: bool) -> None:
    together, apart = gathered(), gathered()
    for page in pages:
        rows = sorted(page.items()) if ascending else list(page.items())
        together.put_all([FIRST + at for at, _ in rows], [value for _, value in rows])
        for at, value in rows:
            apart.put(FIRST + at, value)
    assert together.columns() == apart.columns()
    assert together.missing() == apart.missing()


def test_half_hours_outside_the_window_are_left_out_and_others_sorted() -> None:
    found = gathered()
    found.put_all([FIRST + 48, FIRST + 3, FIRST - 1, FIRST], [1.0, 0.3, 1.0, 0.1])
    found.lose(FIRST + 48, "Outside.")
    assert found.columns() == Columns([FIRST, FIRST + 3], [100_000, 300_000], [False, False])
    assert found.missing() == []


def test_a_half_hour_with_two_values_is_missing_and_one_that_is_repeated_is_not() -> None:
    found = gathered()
    found.put_all([FIRST, FIRST + 1, FIRST, FIRST + 1, FIRST + 1], [0.1, 0.2, 0.1, 0.3, 0.2])
    assert found.columns() == Columns([FIRST], [100_000], [False])
    assert found.missing() == [
        MissingPeriod(IMPORT, instant_of(FIRST + 1), instant_of(FIRST + 2), module.TWO_VALUES)
    ]


def test_a_value_counts_more_than_a_reason() -> None:
    found = gathered()
    found.put(FIRST, None)
    found.put(FIRST, 0.5)
    found.lose(FIRST, "Not here.")
    assert (found.columns().amounts, found.missing()) == ([500_000], [])


def test_elements_of_a_meter_are_added_and_none_of_them_may_be_missing() -> None:
    found = gathered()
    found.put(FIRST, 0.1, 0.25, is_estimated=True)
    found.put(FIRST + 1, 0.1, -1)
    assert found.columns() == Columns([FIRST], [350_000], [True])
    assert [one.cause for one in found.missing()] == [module.NEGATIVE]


def test_devices_of_a_meter_are_added() -> None:
    old, new = gathered(), gathered()
    old.put_all(range(FIRST, FIRST + 4), [0.1, 0.1, 0.0, 0.4])
    new.put_all(range(FIRST + 2, FIRST + 6), [0.3, 0.4, 0.5, 0.6])
    old.lose(FIRST + 4, "Removed.")
    new.lose(FIRST, "Not yet there.")
    new.lose(FIRST + 7, "Silent.")
    old.add(new)
    assert old.columns().amounts == [100_000, 100_000, 300_000, 400_000, 500_000, 600_000]
    assert [one.cause for one in old.missing()] == ["Silent."]


def test_periods_of_one_reason_are_joined() -> None:
    found = gathered()
    for at in (5, 3, 4, 9, 10):
        found.lose(FIRST + at, "Silent.")
    found.lose(FIRST + 6, "Loud.")
    assert [(half_hour(one.start) - FIRST, half_hour(one.end) - FIRST, one.cause) for one in found.missing()] == [
        (3, 6, "Silent."), (6, 7, "Loud."), (9, 11, "Silent."),
    ]  # fmt: skip


def test_more_than_a_smart_meter_counts_is_missing_and_says_why() -> None:
    found = gathered(Unit(most=SMART_METER_MOST[MeterType.ELECTRICITY]))
    found.put_all([FIRST, FIRST + 1, FIRST + 2], [60, 60.001, 346])
    assert found.columns().amounts == [60_000_000]
    assert found.missing()[1].cause == (
        "The source gave 346 kWh for half an hour, more than such a meter counts: "
        "it may be in another unit than the source says."
    )


def test_an_impossible_calorific_value_is_refused() -> None:
    with pytest.raises(ValueError, match="20 to 60"):
        Unit("m3", "3.95")


def test_shapes_of_json_are_checked() -> None:
    assert items({"a": [1]}, "a") == [1]
    assert items({}, "a") == items({"a": None}, "a") == []
    assert records({"a": [{}]}, "a") == [{}]
    assert (text({"a": " b "}, "a"), text({"a": " "}, "a"), text({"a": 3}, "a")) == ("b", None, None)
    for wrong in (lambda: items({"a": {}}, "a"), lambda: records({"a": [1]}, "a"), lambda: record([])):
        with pytest.raises(SourceFailure) as raised:
            wrong()
        assert raised.value.meaning is Meaning.RETRY
