"""What follows from an attempt: the policy as data, and the one place where an exchange is judged."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

from app.outbound.attempt import AttemptOutcome, Exchange

RETRY_SCHEDULE = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Seconds after the first, second, … failed attempt: ten attempts in three days."""

JITTER = 0.2
RETRY_AFTER_LIMIT = 86400
"""No receiver can put an attempt off by more than a day."""

DISABLED_AFTER = 5 * 86_400
"""Seconds of nothing but failures, whichever events, after which an endpoint is disabled."""

GONE = 410
SLOW_DOWN_STATUSES = frozenset({429, 502, 503, 504})

SMTP_OPERATOR_CODES = frozenset({530, 534, 535, 538})
"""Permanent by number, but about our own login or encryption: once the operator mends it, the mail goes."""

RECIPIENT_UNKNOWN = frozenset({"5.1.1", "5.1.3", "5.1.6", "5.1.10"})
"""RFC 3463 and 7505: no such mailbox, not an address, mailbox has moved, a domain that takes no mail."""


RECORDING_SECONDS = 1.0
"""What a lease allows for the outcome's way into the database."""


class Fate(StrEnum):
    """What the delivery now is; the names are those of the contract's DeliveryStatus."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    EXHAUSTED = "EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of an attempt.

    `delay`: seconds until the next attempt, given exactly when the fate is FAILED. `slow_down`: the receiver
    says that it has too much to do, so all its deliveries should come more slowly. `disable`: the destination
    itself is gone, so the endpoint is disabled or the email subscription suspended, with `reason`.
    """

    fate: Fate
    delay: float | None = None
    slow_down: bool = False
    disable: bool = False
    reason: str | None = None


_DONE = Verdict(Fate.SUCCEEDED)
_SYSTEM_RANDOM = random.SystemRandom()


def verdict(
    exchange: Exchange,
    attempt_number: int,
    schedule: Sequence[float] = RETRY_SCHEDULE,
    rng: random.Random = _SYSTEM_RANDOM,
    now: float | None = None,
) -> Verdict:
    """Judge attempt `attempt_number` (the first is 1). `now` is epoch seconds, for a Retry-After date.

    2xx: done. 410, and a mail whose recipient is refused because it does not exist: given up, destination
    disabled. Another permanent SMTP reply: given up. Everything else, redirects included, is tried again by
    the schedule, or after Retry-After where that is later, until the schedule ends; 429, 502, 503 and 504 slow
    the destination down.
    """
    if exchange.outcome is AttemptOutcome.SUCCEEDED:
        return _DONE
    if _destination_gone(exchange):
        return Verdict(Fate.EXHAUSTED, disable=True, reason=exchange.error)
    if _refused_for_good(exchange):
        return Verdict(Fate.EXHAUSTED, reason=exchange.error)
    slow_down = exchange.outcome is AttemptOutcome.HTTP_STATUS and exchange.status in SLOW_DOWN_STATUSES
    delay = next_delay(attempt_number, schedule, rng)
    if delay is None:
        return Verdict(Fate.EXHAUSTED, slow_down=slow_down, reason=exchange.error)
    asked = parse_retry_after(exchange.retry_after, time.time() if now is None else now)
    if asked is not None:
        delay = max(delay, _spread_after(asked, rng))
    return Verdict(Fate.FAILED, delay=delay, slow_down=slow_down, reason=exchange.error)


def next_delay(attempt_number: int, schedule: Sequence[float], rng: random.Random) -> float | None:
    """Seconds to wait after attempt `attempt_number` (from 1) failed, ±20 %; None when it was the last."""
    if attempt_number > len(schedule):
        return None
    return schedule[attempt_number - 1] * rng.uniform(1 - JITTER, 1 + JITTER)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds of a Retry-After header: 0 for a past date, a day at most, None for none or garbage."""
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


def lease_seconds(timeout: float) -> float:
    """For how long a claim holds: the time in the queue, an exchange after it, and the recording after that."""
    return queue_seconds(timeout) + timeout + RECORDING_SECONDS


def queue_seconds(timeout: float) -> float:
    """How long after its claim a delivery may be begun to be sent; later it is given back."""
    return 0.5 * timeout + 2


def is_too_late(expires_at: float, timeout: float) -> bool:
    """Whether an exchange that begins now might outlast its lease, which ends then on the monotonic clock."""
    return expires_at < time.monotonic() + timeout + RECORDING_SECONDS


def _spread_after(seconds: float, rng: random.Random) -> float:
    """A little later than asked, never earlier: many deliveries are told the same moment."""
    return min(seconds * rng.uniform(1, 1 + JITTER), float(RETRY_AFTER_LIMIT))


def _destination_gone(exchange: Exchange) -> bool:
    if exchange.outcome is AttemptOutcome.HTTP_STATUS:
        return exchange.status == GONE
    # The same codes, answered to MAIL FROM or to the data, may be about our own sender.
    return (
        exchange.recipient_refused
        and exchange.enhanced_status in RECIPIENT_UNKNOWN
        and _refused_for_good(exchange)
    )


def _refused_for_good(exchange: Exchange) -> bool:
    if exchange.outcome is not AttemptOutcome.SMTP or exchange.status is None:
        return False
    return 500 <= exchange.status < 600 and exchange.status not in SMTP_OPERATOR_CODES
