"""When feeds fetch what: the day's times of meters, the period of a daily fetch, and pauses after failures."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from app.core import clock
from app.feeds.backfill_plans import daily_due
from app.feeds.source import Window

DAYS_READ_AGAIN: Final = 7
"""UK days that a daily fetch reads, the last of which is yesterday."""

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

RETRY_PAUSES: Final = (
    30.0,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    DAY,
    DAY,
)
"""Seconds between tries of what failed and may succeed later. A part of a backfill fails after the last one."""
REFUSAL_PAUSES: Final = (HOUR, 6 * HOUR, DAY, DAY, DAY)
"""The same for a meter that the source refuses. A backfill fails after the last one, some three days later."""
REPAIR_PAUSES: Final = (HOUR, 6 * HOUR, DAY, 2 * DAY, 4 * DAY, 8 * DAY)
"""Seconds before a gap is asked for again; the last one repeats …"""
REPAIRED_FOR: Final = 30 * DAY
"""… until the gap is this old: then it stays."""
LONGEST_REST: Final = DAY
"""A source can put its credential off by a day at most."""
LONGEST_RETRY_REST: Final = 5 * MINUTE
"""A credential whose source fails rests for longer each time, up to this."""
FIRST_WAIT, LONGEST_WAIT = MINUTE, HOUR
"""Seconds that a credential rests where the source asks for a pause and does not say how long."""
JITTER: Final = 0.2
"""The part of a pause by which it is longer or shorter at most, so that what failed together is not tried together."""

_RANDOM: Final = random.SystemRandom()


def next_daily(meter_id: str, now: datetime) -> datetime:
    """The next time of day at which a meter is fetched."""
    today = clock.uk_date(now)
    due = daily_due(meter_id, today)
    return due if due > now else daily_due(meter_id, today + timedelta(days=1))


def daily_window(now: datetime) -> Window:
    """The last DAYS_READ_AGAIN days of the UK, and nothing of today, which the source may still be collecting."""
    today = clock.uk_date(now)
    start = clock.start_of_uk_day(today - timedelta(days=DAYS_READ_AGAIN))
    return Window(start, clock.start_of_uk_day(today))


def pause(pauses: Sequence[float], failures: int) -> float:
    """Seconds to wait after so many failures in a row, from 1 on, a little more or less."""
    return jittered(pauses[min(max(failures, 1), len(pauses)) - 1])


def retry_rest(failures: int, retry_after: float | None) -> float:
    """Seconds that a credential rests after so many failures in a row, at least as long as the source asks for."""
    own = jittered(min(2.0 ** min(failures - 1, 10), LONGEST_RETRY_REST))
    return max(own, min(retry_after or 0.0, LONGEST_REST))


def wait_rest(failures: int, retry_after: float | None) -> float:
    """Seconds that a credential rests where the source asks for a pause; never less than it says, but for a day."""
    if retry_after is not None:
        return min(max(retry_after, 1.0) * _RANDOM.uniform(1, 1 + JITTER / 4), LONGEST_REST)
    return jittered(min(FIRST_WAIT * 2.0 ** min(failures - 1, 10), LONGEST_WAIT))


def jittered(seconds: float) -> float:
    """Seconds that are longer or shorter by JITTER at most."""
    return seconds * _RANDOM.uniform(1 - JITTER, 1 + JITTER)
