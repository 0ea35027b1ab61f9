"""Recording of fetches: one transaction for each, which locks the meter first.

It asks for the lease's fence, and whether the work is still to be done: by this feed, with a valid consent, and not
done by another worker meanwhile. What was fetched without a valid consent is dropped. A part's readings, its event, its
gaps and its end, and at the last part the end of the backfill with its event, exist together or not at all.
"""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.auth.actor import Actor
from app.core import clock
from app.db.raw_statements import Script
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql
from app.events import log
from app.feeds.backfill_plans import end_backfills, end_where_not_consented
from app.feeds.enums import UNFINISHED
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.fetching import gaps
from app.feeds.fetching.due_work import CONSENTED, Work
from app.feeds.fetching.ending import PART_DONE, end_if_done, skip_before
from app.feeds.fetching.fetch import Found
from app.feeds.fetching.leases import Claim, LeaseLost
from app.feeds.fetching.scheduling import REFUSAL_PAUSES, RETRY_PAUSES, next_daily, pause
from app.feeds.half_hours import half_hour_of
from app.feeds.source import MissingPeriod
from app.meters.models import Meter
from app.readings.actions import lock_meters, received
from app.readings.day_rows import MeterDay, write_fetched
from app.readings.enums import ReadingReason
from app.readings.packing import summary


class Outcome(enum.Enum):
    """The fate of a fetch."""

    RECORDED = "recorded"
    DROPPED = "dropped"
    """There is no valid consent any more."""
    STALE = "stale"
    """The work was ended or done meanwhile."""


@dataclass
class State:
    """A meter's feed, locked with its meter, as it is when a fetch is recorded: the columns of `_STATE`, in order."""

    feed_id: str
    due_ms: int | None
    repair_ms: int | None
    starts_ms: int | None
    failures: int
    is_held: bool
    is_consented: bool
    has_gaps: bool
    part_status: str | None

    def is_wanted(self, work: Work) -> bool:
        """Whether the work is still to be done, and by this feed."""
        if self.feed_id != work.feed.id:
            return False
        if work.part is not None:
            return self.part_status in UNFINISHED
        return (self.repair_ms if work.reason is ReadingReason.GAP_REPAIR else self.due_ms) == work.due_ms


_STATE: Final = Sql(f"""
    SELECT meter_feeds.feed_id, @ms(meter_feeds.due_at), @ms(meter_feeds.repair_at), @ms(meter_feeds.starts_at),
        meter_feeds.failures,
        EXISTS (SELECT 1 FROM feed_credentials WHERE key = :key AND fence = :fence),
        {CONSENTED.format(meter_id="meter_feeds.meter_id")},
        EXISTS (SELECT 1 FROM feed_gaps WHERE feed_gaps.meter_id = meter_feeds.meter_id),
        (
            SELECT backfill_parts.status FROM backfills
            JOIN backfill_parts ON backfill_parts.backfill_id = backfills.id AND backfill_parts.number = :part
            WHERE backfills.id = :backfill_id AND backfills.completed_at IS NULL
        )
    FROM meter_feeds WHERE meter_feeds.meter_id = :meter_id
""")  # noqa: S608 - our own text
_WHOSE: Final = Sql(f"""
    SELECT meter_feeds.feed_id, {CONSENTED.format(meter_id="meter_feeds.meter_id")}
    FROM meter_feeds WHERE meter_feeds.meter_id = :meter_id
""")  # noqa: S608 - our own text
_SOONEST_GAP: Final = "(SELECT MIN(due_at) FROM feed_gaps WHERE feed_gaps.meter_id = meter_feeds.meter_id)"
_FETCHED: Final = """
    UPDATE meter_feeds SET due_at = {due}, repair_at = {soonest}, fetched_at = @now, failures = 0, error = NULL,
        starts_at = COALESCE(@instant(:starts_ms), starts_at)
    WHERE meter_id = :meter_id
"""
_FETCHED_DAILY: Final = Sql(_FETCHED.format(due="@instant(:due_ms)", soonest=_SOONEST_GAP))
_FETCHED_ONCE: Final = Sql(_FETCHED.format(due="COALESCE(due_at, @instant(:due_ms))", soonest=_SOONEST_GAP))
_FAILED: Final = """
    UPDATE meter_feeds SET {column} = @later(:seconds), failures = failures + 1, error = :error
    WHERE meter_id = :meter_id
"""
_FAILED_DAILY: Final = Sql(_FAILED.format(column="due_at"))
_FAILED_REPAIR: Final = Sql(_FAILED.format(column="repair_at"))
_FAILED_PART: Final = Sql("UPDATE meter_feeds SET error = :error WHERE meter_id = :meter_id")
_PART_FAILED: Final = Sql("""
    UPDATE backfill_parts SET attempts = attempts + 1, error = :error
    WHERE backfill_id = :backfill_id AND number = :part
""")
_PUT_OFF: Final = Sql("UPDATE backfills SET due_at = @later(:seconds) WHERE id = :backfill_id")
_GIVE_UP_PART: Final = Sql("""
    UPDATE backfill_parts SET status = 'FAILED', missing = :missing WHERE backfill_id = :backfill_id AND number = :part
""")
_GIVE_UP: Final = Sql("""
    UPDATE backfill_parts SET status = 'FAILED', error = :error
    WHERE backfill_id = :backfill_id AND status IN ('WAITING', 'RUNNING')
""")
# A part that failed may have been the meter's first: without a time for it the meter would never be fetched again.
_GO_ON: Final = Sql(f"""
    UPDATE meter_feeds SET due_at = COALESCE(due_at, @instant(:due_ms)), repair_at = {_SOONEST_GAP}
    WHERE meter_id = :meter_id
""")  # noqa: S608 - our own text
_RESCHEDULE: Final = Sql(f"UPDATE meter_feeds SET repair_at = {_SOONEST_GAP} WHERE meter_id = :meter_id")  # noqa: S608


def record(transaction: InTransaction, work: Work, claim: Claim, found: Found) -> Script[Outcome]:
    """Writes what was fetched. Raises LeaseLost before it has written anything."""
    locked = yield from _lock(work, claim)
    if isinstance(locked, Outcome):
        return locked
    meter, state = locked
    changed = yield from _write(transaction, meter, work, found)
    missing = yield from _revise_gaps(transaction, meter, work, found, state)
    values = {
        "meter_id": meter.id,
        "due_ms": _next_daily_ms(meter, work),
        "starts_ms": None if found.starts_at is None else clock.to_ms(found.starts_at),
    }
    is_daily = work.reason is ReadingReason.SCHEDULED
    yield (_FETCHED_DAILY if is_daily else _FETCHED_ONCE), values
    if work.part is not None:
        yield PART_DONE, {**_place(work), "changed": changed, "missing": missing}
        if found.starts_at is not None:
            yield from skip_before(work.part.backfill_id, found.starts_at)
        starts_at = found.starts_at or _instant(state.starts_ms)
        yield from end_if_done(transaction, meter, work.part.backfill_id, changed, starts_at)
    return Outcome.RECORDED


def note_failure(
    transaction: InTransaction, work: Work, claim: Claim, failure: SourceFailure
) -> Script[Outcome]:
    """Writes down that the source did not give a meter's window, and when it is asked again. Raises LeaseLost."""
    locked = yield from _lock(work, claim)
    if isinstance(locked, Outcome):
        return locked
    meter, state = locked
    is_refused = failure.meaning is Meaning.METER
    pauses = REFUSAL_PAUSES if is_refused else RETRY_PAUSES
    tries = work.failures + 1
    noted = {"meter_id": meter.id, "error": failure.message}
    if work.part is None:
        statement = _FAILED_REPAIR if work.reason is ReadingReason.GAP_REPAIR else _FAILED_DAILY
        yield statement, {**noted, "seconds": pause(pauses, tries)}
        return Outcome.RECORDED
    place = _place(work)
    yield _FAILED_PART, noted
    yield _PART_FAILED, {**place, "error": failure.message}
    if tries <= len(pauses):
        yield _PUT_OFF, {"backfill_id": work.part.backfill_id, "seconds": pause(pauses, tries)}
        return Outcome.RECORDED
    if is_refused:
        yield _GIVE_UP, {"backfill_id": work.part.backfill_id, "error": failure.message}
    else:
        # Its half-hours are asked for again as gaps are.
        missing = yield from _all_missing(transaction, meter, work, failure.message)
        yield _GIVE_UP_PART, {**place, "missing": missing}
    yield _GO_ON, {"meter_id": meter.id, "due_ms": _next_daily_ms(meter, work)}
    yield from end_if_done(transaction, meter, work.part.backfill_id, 0, _instant(state.starts_ms))
    return Outcome.RECORDED


def drop(transaction: InTransaction, work: Work) -> Script[None]:
    """Ends work that is not wanted any more: its meter has no valid consent, or another feed."""
    locked = yield from lock_meters(_owner(work), [work.meter_id])
    if not locked:
        return
    [(feed_id, is_consented)] = (yield _WHOSE, {"meter_id": work.meter_id}) or [(None, False)]
    if not is_consented:
        yield from end_where_not_consented([work.meter_id])
    elif feed_id != work.feed.id and work.reason is ReadingReason.BACKFILL:
        yield from end_backfills([work.meter_id])


def settle(transaction: InTransaction, work: Work) -> Script[None]:
    """Puts work right of which nothing is left to be fetched."""
    for meter in (yield from lock_meters(_owner(work), [work.meter_id])):
        if work.reason is ReadingReason.GAP_REPAIR:
            yield _RESCHEDULE, {"meter_id": meter.id}
        else:
            yield from end_backfills([meter.id])


def _lock(work: Work, claim: Claim) -> Script[tuple[Meter, State] | Outcome]:
    # Writers of a meter wait for its lock, and so does whoever ends its consent.
    meters = yield from lock_meters(_owner(work), [work.meter_id])
    if not meters:
        return Outcome.STALE
    backfill_id, part = ("", 0) if work.part is None else (work.part.backfill_id, work.part.number)
    values = {"meter_id": work.meter_id, **claim.place, "backfill_id": backfill_id, "part": part}
    found = yield _STATE, values
    if not found:
        return Outcome.STALE
    state = State(*found[0])
    if not state.is_held:
        raise LeaseLost
    if not state.is_consented:
        yield from end_where_not_consented([work.meter_id])
        return Outcome.DROPPED
    return (meters[0], state) if state.is_wanted(work) else Outcome.STALE


def _write(transaction: InTransaction, meter: Meter, work: Work, found: Found) -> Script[int]:
    """Writes the readings and appends their events; gives how many half-hours changed."""
    is_backfill = work.reason is ReadingReason.BACKFILL
    reasons = work.reason, work.reason if is_backfill else ReadingReason.CORRECTION
    now_ms = clock.to_ms(clock.now())
    changed = 0
    for channel, days in found.days.items():
        new = {MeterDay(meter.id, day): packed for day, packed in days.items()}
        on_sqlite = is_on_sqlite(transaction)
        by_reason = yield from write_fetched(on_sqlite, new, channel, reasons, now_ms, insists=found.insists)
        for reason in dict.fromkeys(reasons):
            if changes := by_reason.get(reason):
                event = received(meter, channel, changes, reason, work.part)
                log.append(transaction, meter.account_id, event)
                changed += event.interval_count
    return changed


def _revise_gaps(
    transaction: InTransaction, meter: Meter, work: Work, found: Found, state: State
) -> Script[int]:
    """Writes down what is missing now; gives how many half-hours."""
    low, high = found.span
    if found.starts_at is not None:
        low = min(max(low, half_hour_of(found.starts_at)), high)
    channels = [*found.days, *(one.channel for one in found.missing)]
    if not channels and low < high:
        channels = yield from gaps.channels_without_readings(meter.id)
    # A repair is also about channels that the source tells nothing of any more, or it would be due for ever.
    known = (yield from gaps.channels_with_gaps(meter.id, found.span)) if state.has_gaps else []
    count = 0
    for channel in dict.fromkeys([*channels, *known]):
        present = {day: summary(packed).present for day, packed in found.days.get(channel, {}).items()}
        missing = yield from gaps.missing_half_hours(meter.id, channel, (low, high), present)
        count += sum(after - first for first, after in missing) if channel in channels else 0
        if missing or channel in known:
            runs = gaps.explained(missing, [one for one in found.missing if one.channel is channel])
            yield from gaps.revise(
                transaction,
                meter.id,
                channel,
                found.span,
                runs,
                is_repair=work.reason is ReadingReason.GAP_REPAIR,
                makes_new=channel in channels,
            )
    return count


def _all_missing(transaction: InTransaction, meter: Meter, work: Work, cause: str) -> Script[int]:
    """Makes a gap of the whole window, but for what came by another way."""
    assert work.window is not None  # noqa: S101 - it was fetched
    span = gaps.span_of(work.window)
    count = 0
    for channel in (yield from gaps.channels_without_readings(meter.id)):
        missing = yield from gaps.missing_half_hours(meter.id, channel, span, {})
        count += sum(after - first for first, after in missing)
        runs = gaps.explained(missing, [MissingPeriod(channel, *work.window, cause)])
        yield from gaps.revise(transaction, meter.id, channel, span, runs, is_repair=False)
    return count


def _owner(work: Work) -> Actor:
    return Actor(work.feed.account_id, frozenset())


def _place(work: Work) -> dict[str, Any]:
    assert work.part is not None  # noqa: S101 - asked for parts only
    return {"backfill_id": work.part.backfill_id, "part": work.part.number}


def _next_daily_ms(meter: Meter, work: Work) -> int:
    # By a clock behind the database's, the time that the work was due at would come again at once.
    return clock.to_ms(next_daily(meter.id, max(clock.now(), clock.from_ms(work.due_ms))))


def _instant(ms: int | None) -> datetime | None:
    return None if ms is None else clock.from_ms(ms)
