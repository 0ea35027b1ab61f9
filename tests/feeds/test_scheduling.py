"""When feeds fetch: a million meters spread over a day, by a clock of the test's own, and pauses after failures."""

import heapq
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from app.core import clock
from app.feeds.fetching.gaps import span_of
from app.feeds.fetching.scheduling import (
    DAY,
    REFUSAL_PAUSES,
    REPAIR_PAUSES,
    RETRY_PAUSES,
    daily_window,
    next_daily,
    pause,
    retry_rest,
    wait_rest,
)

MINUTES = 24 * 60
MILLION = 1_000_000


def meter(place: int) -> str:
    return f"mtr_{place:026x}"


def test_a_million_meters_are_due_evenly_over_a_day() -> None:
    """A tenth of them is simulated: by chance a minute has 69.4 ± 8.3 of them, and 694 ± 26 of the million."""
    count = MILLION // 10
    now = datetime(2026, 11, 24, tzinfo=UTC)
    due = Counter((next_daily(meter(place), now) - now) // timedelta(minutes=1) for place in range(count))
    assert sum(due.values()) == count
    assert set(due) == set(range(MINUTES))
    mean = count / MINUTES
    assert max(due.values()) < mean + 6 * mean**0.5
    assert min(due.values()) > mean - 6 * mean**0.5


def test_a_day_of_fetches_runs_at_an_even_rate_whenever_meters_came() -> None:
    """Meters that all come within the same minute are fetched over the whole next day, each once."""
    now = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
    count = 20_000
    queue = [(next_daily(meter(place), now), meter(place)) for place in range(count)]
    heapq.heapify(queue)
    by_hour: Counter[int] = Counter()
    fetched: Counter[str] = Counter()
    while queue[0][0] < now + timedelta(days=2):
        # The clock moves on to what is due; a fetch takes no time, and each is late by a second.
        at, one = queue[0]
        by_hour[(at - now) // timedelta(hours=1)] += 1
        fetched[one] += 1
        heapq.heapreplace(queue, (next_daily(one, at + timedelta(seconds=1)), one))
    assert set(fetched.values()) == {2}
    assert max(by_hour.values()) < 1.2 * count / 24
    assert min(by_hour.values()) > 0.8 * count / 24


@pytest.mark.parametrize(
    ("day", "half_hours"),
    [
        (date(2026, 3, 29), 7 * 48),
        (date(2026, 3, 30), 7 * 48 - 2),
        (date(2026, 4, 5), 7 * 48 - 2),
        (date(2026, 4, 6), 7 * 48),
        (date(2026, 10, 26), 7 * 48 + 2),
        (date(2026, 6, 1), 7 * 48),
    ],
)
def test_a_daily_fetch_reads_seven_days_of_the_uk_and_nothing_of_today(day: date, half_hours: int) -> None:
    for now in (clock.start_of_uk_day(day), clock.end_of_uk_day(day) - timedelta(milliseconds=1)):
        window = daily_window(now)
        assert window.end == clock.start_of_uk_day(day)
        first, after = span_of(window)
        assert after - first == half_hours


def test_a_meter_has_one_fetch_a_day_across_clock_changes() -> None:
    for change in (date(2026, 3, 28), date(2026, 10, 24)):
        for place in range(200):
            at = clock.start_of_uk_day(change)
            due = []
            while (at := next_daily(meter(place), at)) < clock.start_of_uk_day(change + timedelta(days=4)):
                due.append(clock.uk_date(at))
            assert due == [change + timedelta(days=past) for past in range(4)]


def test_pauses_grow_with_jitter_and_are_bounded() -> None:
    for pauses in (RETRY_PAUSES, REFUSAL_PAUSES, REPAIR_PAUSES):
        assert all(earlier <= later for earlier, later in pairwise(pauses))
        for failures in range(1, len(pauses) + 3):
            expected = pauses[min(failures, len(pauses)) - 1]
            assert 0.8 * expected <= pause(pauses, failures) <= 1.2 * expected
    assert 0.8 <= retry_rest(1, None) <= 1.2
    assert retry_rest(60, None) <= 1.2 * 300
    assert 3600 <= retry_rest(1, 3600) <= DAY
    assert 120 <= wait_rest(1, 120) <= 120 * 1.05
    assert wait_rest(1, 10 * DAY) == DAY
    assert 48 <= wait_rest(1, None) <= 72
    assert wait_rest(50, None) <= 1.2 * 3600
    assert len({pause(RETRY_PAUSES, 1) for _ in range(10)}) > 1
