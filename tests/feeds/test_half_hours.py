"""Half-hours as a source tells of them: repeated, contradicted, outside the window, and no amounts at all."""

import pytest

from app.feeds.amounts import NO_NUMBER, NO_VALUE, TWO_VALUES
from app.feeds.half_hours import TEXTS_KEPT, HalfHours, KnownTexts
from app.readings.enums import ReadingChannel
from tests.feeds.sources import missed, shown, window

IMPORT, EXPORT = ReadingChannel.IMPORT, ReadingChannel.EXPORT


@pytest.fixture
def gathered() -> HalfHours:
    return HalfHours(window("2026-01-01 00:00", "2026-01-01 03:00"))


def test_half_hours_come_in_any_order_and_outside_the_window(gathered: HalfHours) -> None:
    for place in (5, -1, 6, 0):
        gathered.add(IMPORT, gathered.first + place, place / 10)
    gathered.miss(IMPORT, gathered.after, NO_VALUE)
    gathered.miss_period(IMPORT, gathered.after, gathered.after + 9, NO_VALUE)
    fetched = gathered.fetched()
    assert shown(fetched) == {"2026-01-01 00:00": "0", "2026-01-01 02:30": "0.5"}
    assert list(fetched.missing) == []


def test_a_value_counts_more_than_a_mark(gathered: HalfHours) -> None:
    gathered.miss(IMPORT, gathered.first, NO_VALUE)
    gathered.add(IMPORT, gathered.first, 1)
    gathered.add(IMPORT, gathered.first, 1)
    gathered.miss(IMPORT, gathered.first, NO_VALUE)
    fetched = gathered.fetched()
    assert shown(fetched) == {"2026-01-01 00:00": "1"}
    assert list(fetched.missing) == []


def test_two_values_for_a_half_hour_are_none(gathered: HalfHours) -> None:
    gathered.add(IMPORT, gathered.first, 1)
    gathered.add(IMPORT, gathered.first, 2)
    gathered.add(IMPORT, gathered.first, 1)
    fetched = gathered.fetched()
    assert fetched.readings == {}
    assert missed(fetched) == [("IMPORT", "2026-01-01 00:00", "2026-01-01 00:30", TWO_VALUES)]


def test_missing_half_hours_are_told_as_periods_by_cause(gathered: HalfHours) -> None:
    first = gathered.first
    gathered.add(IMPORT, first + 2, 1)
    gathered.add(IMPORT, first + 3, "abc")
    gathered.miss(EXPORT, first, NO_VALUE)
    gathered.miss(EXPORT, first + 1, NO_VALUE)
    gathered.miss_period(IMPORT, first - 5, first + 1, "Too early.")
    gathered.miss_rest(IMPORT, "Nobody knows.")
    assert missed(gathered.fetched()) == [
        ("IMPORT", "2026-01-01 00:00", "2026-01-01 00:30", "Too early."),
        ("IMPORT", "2026-01-01 00:30", "2026-01-01 01:00", "Nobody knows."),
        ("IMPORT", "2026-01-01 01:30", "2026-01-01 02:00", NO_NUMBER),
        ("IMPORT", "2026-01-01 02:00", "2026-01-01 03:00", "Nobody knows."),
        ("EXPORT", "2026-01-01 00:00", "2026-01-01 01:00", NO_VALUE),
    ]


def test_nothing_at_all(gathered: HalfHours) -> None:
    fetched = gathered.fetched()
    assert (fetched.readings, fetched.missing, fetched.starts_at) == ({}, [], None)


def test_texts_that_a_source_invents_do_not_fill_the_memory() -> None:
    known = KnownTexts(int)
    for number in range(2 * TEXTS_KEPT + 1):
        assert known[str(number)] == known[str(number)] == number
        assert len(known) <= TEXTS_KEPT
    with pytest.raises(ValueError, match="none"):
        known["none"]
    assert "none" not in known
