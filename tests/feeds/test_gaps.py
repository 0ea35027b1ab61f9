"""Gaps: which half-hours are missing, what is kept of them after each fetch, and when they are asked for again."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.feeds.fetching.gaps import MOST_RUNS, Gap, Run, explained, missing_runs, revised
from app.feeds.fetching.scheduling import REPAIRED_FOR
from app.readings.packing import SLOTS
from tests.feeds.scripted import missing

HOUR_MS = 3_600_000
NOW = 1_800_000_000_000
SPAN = (480, 960)


@given(st.integers(0, 200), st.integers(1, 200), st.sets(st.integers(0, 400)))
def test_runs_are_just_the_half_hours_that_are_not_present(low: int, length: int, present: set[int]) -> None:
    days: dict[int, int] = {}
    for half_hour in present:
        day, slot = divmod(half_hour, SLOTS)
        days[day] = days.get(day, 0) | 1 << slot
    runs = missing_runs((low, low + length), days)
    covered = [one for first, after in runs for one in range(first, after)]
    assert covered == sorted(set(range(low, low + length)) - present)
    # Adjacent runs are one.
    assert all(after < first for (_, after), (first, _) in pairwise(runs))


def test_a_run_is_explained_by_what_the_source_says() -> None:
    periods = [missing(10, 20, "No consent."), missing(30, 40, "No meter.")]
    assert explained([(5, 35)], periods) == [
        Run(5, 10, None),
        Run(10, 20, "No consent."),
        Run(20, 30, None),
        Run(30, 35, "No meter."),
    ]
    assert explained([(12, 14)], periods) == [Run(12, 14, "No consent.")]
    assert explained([(0, 5)], periods) == [Run(0, 5, None)]
    assert explained([], periods) == []


def test_many_runs_are_kept_by_the_day() -> None:
    scattered = [(one, one + 1) for one in range(0, 31 * SLOTS, 2)]
    runs = explained(scattered, [])
    assert len(scattered) > MOST_RUNS >= len(runs)
    assert {half_hour for first, after in scattered for half_hour in range(first, after)} <= {
        half_hour for run in runs for half_hour in range(run.first, run.after)
    }


def test_a_new_gap_is_due_in_an_hour_and_a_filled_one_is_gone() -> None:
    [gap] = revised([], [Run(500, 510, "Late.")], SPAN, NOW, is_repair=False)
    assert gap[:5] == (500, 510, "Late.", NOW, 0)
    assert gap.due_ms is not None
    assert 0.8 * HOUR_MS <= gap.due_ms - NOW <= 1.2 * HOUR_MS
    assert revised([gap], [], SPAN, NOW, is_repair=True) == []


def test_what_is_left_of_a_gap_keeps_its_age_its_cause_and_its_place_in_the_queue() -> None:
    gap = Gap(500, 520, "Late.", NOW - HOUR_MS, 2, NOW + HOUR_MS)
    kept = revised([gap], [Run(505, 508, None), Run(515, 520, None)], SPAN, NOW, is_repair=False)
    assert kept == [gap._replace(first=505, after=508), gap._replace(first=515, after=520)]


def test_what_is_outside_of_the_fetch_stays_as_it_is() -> None:
    gap = Gap(400, 1000, None, NOW - HOUR_MS, 1, NOW)
    assert revised([gap], [], SPAN, NOW, is_repair=True) == [
        gap._replace(after=480),
        gap._replace(first=960),
    ]


def test_a_repair_that_does_not_help_counts_and_ends_after_thirty_days() -> None:
    gap = Gap(500, 520, "Late.", NOW, 0, NOW)
    now, tries = NOW, 0
    while gap.due_ms is not None:
        now = gap.due_ms
        [gap] = revised([gap], [Run(500, 520, None)], SPAN, now, is_repair=True)
        tries += 1
        assert (gap.tries, gap.found_ms, gap.cause) == (tries, NOW, "Late.")
        assert gap.due_ms is None or gap.due_ms > now
    assert REPAIRED_FOR * 1000 <= now - NOW < 1.5 * REPAIRED_FOR * 1000
    assert 6 <= tries <= 12
    # A daily fetch neither counts as a try nor begins them anew.
    assert revised([gap], [Run(500, 520, None)], SPAN, now, is_repair=False) == [gap]


def test_gaps_of_a_meter_never_overlap_and_hold_all_that_is_missing() -> None:
    chance = random.Random(4)
    gaps: list[Gap] = []
    for turn in range(300):
        low = chance.randrange(0, 800)
        high = low + chance.randrange(1, 300)
        absent = {one for one in range(low, high) if chance.random() < 0.1}
        days: dict[int, int] = {}
        for one in set(range(low, high)) - absent:
            days[one // SLOTS] = days.get(one // SLOTS, 0) | 1 << one % SLOTS
        runs = explained(missing_runs((low, high), days), [])
        touching = [gap for gap in gaps if gap.first < high and gap.after > low]
        others = [gap for gap in gaps if gap not in touching]
        revision = revised(touching, runs, (low, high), NOW + turn, is_repair=chance.random() < 0.5)
        gaps = sorted(others + revision)
        assert all(earlier.after <= later.first for earlier, later in pairwise(gaps))
        inside = {one for gap in gaps for one in range(gap.first, gap.after) if low <= one < high}
        assert absent <= inside


class Looked(Gap):
    """A gap that counts how often its end is looked at."""

    looks = 0

    @property
    def after(self) -> int:  # type: ignore[override]
        Looked.looks += 1
        return self[1]


def test_gaps_of_ten_years_are_compared_in_one_pass() -> None:
    days = 3_653
    runs = [Run(one * SLOTS, one * SLOTS + 7, None) for one in range(days)]
    old = [Looked(*run, NOW - HOUR_MS, 2, NOW + HOUR_MS) for run in runs]
    Looked.looks = 0
    assert revised(old[::-1], runs, (0, days * SLOTS), NOW, is_repair=False) == old
    assert Looked.looks < 10 * days


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_each_run_keeps_the_oldest_gap_that_it_was_part_of(then: set[int], now: set[int]) -> None:
    old = [
        Gap(first, after, None, NOW - first * HOUR_MS, first, None)
        for first, after in missing_runs((0, 61), bits(set(range(61)) - then))
    ]
    runs = [Run(first, after, None) for first, after in missing_runs((0, 61), bits(set(range(61)) - now))]
    found = revised(old, runs, (0, 61), NOW, is_repair=False)
    assert [(gap.first, gap.after) for gap in found] == [(run.first, run.after) for run in runs]
    for run, gap in zip(runs, found, strict=True):
        touched = [one for one in old if one.first < run.after and run.first < one.after]
        assert gap.found_ms == min((one.found_ms for one in touched), default=NOW)


def bits(half_hours: set[int]) -> dict[int, int]:
    days: dict[int, int] = {}
    for one in half_hours:
        days[one // SLOTS] = days.get(one // SLOTS, 0) | 1 << one % SLOTS
    return days
