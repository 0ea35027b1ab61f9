"""The retry policy: the one place where an attempt is judged."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

from app.outbound.attempt import Attempt, AttemptOutcome

JITTER = 0.2
RETRY_AFTER_LIMIT = 86400
"""A receiver can put an attempt off by a day at most."""

DISABLED_AFTER = 5 * 86_400
"""Seconds of failures, without a success in between, after which an endpoint is disabled."""

GONE = 410
SLOW_DOWN_STATUSES = frozenset({429, 502, 503, 504})

SMTP_OPERATOR_CODES = frozenset({530, 534, 535, 538})
"""Permanent by number, but about our own login or encryption: retried until the operator has mended it."""

RECIPIENT_UNKNOWN = frozenset({"5.1.1", "5.1.3", "5.1.6", "5.1.10"})
"""RFC 3463 and 7505: no such mailbox, not an address, mailbox has moved, a domain that takes no mail."""


class Fate(StrEnum):
    """The status of a delivery after an attempt, by the names of the contract's DeliveryStatus."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    EXHAUSTED = "EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of an attempt.

    `delay`: seconds until the next attempt, given exactly when the fate is FAILED. `slow_down`: the receiver is
    overloaded, so all its deliveries should come more slowly. `disable`: the destination itself is gone, so the
    endpoint is disabled or the email subscription suspended, with `reason`.
    """

    fate: Fate
    delay: float | None = None
    slow_down: bool = False
    disable: bool = False
    reason: str | None = None


_DONE = Verdict(Fate.SUCCEEDED)
_RANDOM = random.SystemRandom()


def verdict(attempt: Attempt, attempt_number: int, schedule: Sequence[float]) -> Verdict:
    """Judges attempt `attempt_number` (the first is 1).

    2xx: done. 410, or a mail refused because its recipient does not exist: given up, destination disabled. Another
    permanent SMTP reply: given up. Everything else, redirects included, is tried again by the schedule, or after
    Retry-After if that is later, until the schedule ends; 429, 502, 503 and 504 slow the destination down.
    """
    if attempt.outcome is AttemptOutcome.SUCCEEDED:
        return _DONE
    if _destination_gone(attempt):
        return Verdict(Fate.EXHAUSTED, disable=True, reason=attempt.error)
    if _refused_for_good(attempt):
        return Verdict(Fate.EXHAUSTED, reason=attempt.error)
    slow_down = attempt.outcome is AttemptOutcome.HTTP_STATUS and attempt.status in SLOW_DOWN_STATUSES
    delay = next_delay(attempt_number, schedule)
    if delay is None:
        return Verdict(Fate.EXHAUSTED, slow_down=slow_down, reason=attempt.error)
    asked = parse_retry_after(attempt.retry_after, time.time())
    if asked is not None:
        delay = max(delay, _spread_after(asked))
    return Verdict(Fate.FAILED, delay=delay, slow_down=slow_down, reason=attempt.error)


def next_delay(attempt_number: int, schedule: Sequence[float]) -> float | None:
    """Seconds to wait after failed attempt `attempt_number` (from 1), ±20 %; None after the last one."""
    if attempt_number > len(schedule):
        return None
    return schedule[attempt_number - 1] * _RANDOM.uniform(1 - JITTER, 1 + JITTER)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds of a Retry-After header, as of `now` in epoch seconds: 0 for a past date, a day at most.

    None for no header, and for one that cannot be read.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        # Compared by length first: Python refuses to convert digits by the thousand.
        digits = text.lstrip("0")
        return float(RETRY_AFTER_LIMIT if len(digits) > 9 else min(int(digits or "0"), RETRY_AFTER_LIMIT))
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), float(RETRY_AFTER_LIMIT))


def _spread_after(seconds: float) -> float:
    """A little later than asked, never earlier, since many deliveries are told the same moment."""
    return min(seconds * _RANDOM.uniform(1, 1 + JITTER), float(RETRY_AFTER_LIMIT))


def _destination_gone(attempt: Attempt) -> bool:
    if attempt.outcome is AttemptOutcome.HTTP_STATUS:
        return attempt.status == GONE
    # The same codes, answered to MAIL FROM or to the data, may be about our own sender.
    return (
        attempt.recipient_refused
        and attempt.enhanced_status in RECIPIENT_UNKNOWN
        and _refused_for_good(attempt)
    )


def _refused_for_good(attempt: Attempt) -> bool:
    if attempt.outcome is not AttemptOutcome.SMTP or attempt.status is None:
        return False
    return 500 <= attempt.status < 600 and attempt.status not in SMTP_OPERATOR_CODES
