"""Half-hours that a source did not give: found by the days that are stored, kept with their cause, asked for again.

A gap's row may span half-hours that have come since by another way: whether one is missing, its day says.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import TextClause
from sqlalchemy.sql.selectable import TextualSelect

from app.core import clock
from app.db.raw_statements import Script
from app.db.scripts import InTransaction, is_on_sqlite
from app.db.sql import Sql, rows
from app.feeds.fetching.scheduling import REPAIR_PAUSES, REPAIRED_FOR, pause
from app.feeds.half_hours import half_hour_of
from app.feeds.source import MissingPeriod, Window
from app.readings.aggregation import within
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS, summary

MOST_RUNS: Final = 100
"""Runs of missing half-hours that are kept of one fetch and channel; if there are more, those of a day are one."""
MOST_PERIODS: Final = 2_000
"""Periods of a source's answer, with its reasons, that are read."""
MOST_CAUSE: Final = 300
"""Characters of a cause."""

Span = tuple[int, int]
"""Half-hours `[first, after)`, counted from 1970."""


class Run(NamedTuple):
    """Missing half-hours `[first, after)`, and the source's words about them."""

    first: int
    after: int
    cause: str | None


class Gap(NamedTuple):
    """A gap as it is stored. `due_ms` is None once it stays for good."""

    first: int
    after: int
    cause: str | None
    found_ms: int
    tries: int
    due_ms: int | None


_PRESENT: Final = Sql("""
    SELECT reading_days.day, reading_days.packed FROM meter_keys
    JOIN reading_days ON reading_days.meter_key = meter_keys.key
    WHERE meter_keys.meter_id = :meter_id AND reading_days.channel = :channel
        AND reading_days.day BETWEEN :first_day AND :last_day
""")
_CHANNELS: Final = Sql("""
    SELECT given.channel FROM @rows(channel bigint) WHERE EXISTS (
        SELECT 1 FROM meter_keys JOIN reading_days ON reading_days.meter_key = meter_keys.key
        WHERE meter_keys.meter_id = :meter_id AND reading_days.channel = CAST(given.channel AS smallint)
    )
""")
_GAPS: Final = Sql("""
    SELECT first, after, cause, @ms(found_at), tries, @ms(due_at) FROM feed_gaps
    WHERE meter_id = :meter_id AND channel = :channel AND first < :high AND after > :low
""")
_GAP_CHANNELS: Final = Sql("""
    SELECT DISTINCT channel FROM feed_gaps WHERE meter_id = :meter_id AND first < :high AND after > :low
""")
_DELETE: Final = Sql("""
    DELETE FROM feed_gaps WHERE meter_id = :meter_id AND channel = :channel
        AND first IN (SELECT given.first FROM @rows(first bigint))
""")
_INSERT: Final = Sql("""
    INSERT INTO feed_gaps (meter_id, channel, first, after, cause, found_at, tries, due_at)
    SELECT :meter_id, :channel, given.first, given.after, given.cause, @instant(given.found_ms), given.tries,
        @instant(given.due_ms)
    FROM @rows(first bigint, after bigint, cause text, found_ms bigint, tries bigint, due_ms bigint)
""")


# The bounds of a period for each meter, since what is asked for differs where no period was given.
_CAUSES: Final = Sql("""
    SELECT feed_gaps.meter_id, feed_gaps.first, feed_gaps.after, feed_gaps.cause
    FROM @rows(meter_id text, low bigint, high bigint) JOIN feed_gaps ON feed_gaps.meter_id = given.meter_id
        AND feed_gaps.channel = :channel AND feed_gaps.first < given.high AND feed_gaps.after > given.low
    WHERE feed_gaps.cause IS NOT NULL ORDER BY feed_gaps.meter_id, feed_gaps.first
""")


def causes(
    channel: ReadingChannel, spans: Mapping[str, Span], *, on_sqlite: bool
) -> tuple[TextClause | TextualSelect, dict[str, Any]]:
    """The statement, with its parameters, that reads (meter id, first, after, cause) of the gaps in spans by meter."""
    given = rows({"meter_id": one, "low": low, "high": high} for one, (low, high) in spans.items())
    return _CAUSES.of(on_sqlite), {"channel": channel.code, "rows": given}


def span_of(window: Window) -> Span:
    """The half-hours of a window."""
    return half_hour_of(window.start), half_hour_of(window.end)


def channels_without_readings(meter_id: str) -> Script[list[ReadingChannel]]:
    """The channels in which a meter without any readings in a fetch has a gap: those it has at all, or IMPORT."""
    given = rows({"channel": channel.code} for channel in ReadingChannel)
    found = {code for (code,) in (yield _CHANNELS, {"meter_id": meter_id, "rows": given})}
    return [channel for channel in ReadingChannel if channel.code in found] or [ReadingChannel.IMPORT]


def channels_with_gaps(meter_id: str, span: Span) -> Script[list[ReadingChannel]]:
    """The channels of a meter that have gaps in a span."""
    found = yield _GAP_CHANNELS, {"meter_id": meter_id, "low": span[0], "high": span[1]}
    codes = {code for (code,) in found}
    return [channel for channel in ReadingChannel if channel.code in codes]


def missing_half_hours(
    meter_id: str, channel: ReadingChannel, span: Span, present: Mapping[int, int]
) -> Script[list[Span]]:
    """The runs of half-hours of a span that are neither among those just written, as bitmaps by day, nor stored."""
    low, high = span
    runs = missing_runs(span, present)
    if not runs:
        return []
    days = {"first_day": low // SLOTS, "last_day": (high - 1) // SLOTS}
    stored = yield _PRESENT, {"meter_id": meter_id, "channel": channel.code, **days}
    both = dict(present)
    for day, packed in stored:
        both[day] = both.get(day, 0) | summary(packed).present
    return missing_runs(span, both)


def missing_runs(span: Span, present: Mapping[int, int]) -> list[Span]:
    """The runs of half-hours of a span that are not in the bitmaps by day."""
    low, high = span
    runs: list[Span] = []
    for day in range(low // SLOTS, -(-high // SLOTS)):
        absent = within(day, low, high) & ~present.get(day, 0)
        at = day * SLOTS
        while absent:
            skipped = (absent & -absent).bit_length() - 1
            absent >>= skipped
            length = (~absent & absent + 1).bit_length() - 1
            absent >>= length
            first, after = at + skipped, at + skipped + length
            if runs and runs[-1][1] == first:
                runs[-1] = runs[-1][0], after
            else:
                runs.append((first, after))
            at = after
    return runs


def explained(missing: Sequence[Span], periods: Iterable[MissingPeriod]) -> list[Run]:
    """Missing half-hours with what the source says about them; a run ends where its cause does."""
    causes = sorted(
        (*span_of(Window(one.start, one.end)), one.cause[:MOST_CAUSE])
        for one in islice(periods, MOST_PERIODS)
    )
    runs: list[Run] = []
    passed = 0
    for first, after in missing:
        while passed < len(causes) and causes[passed][1] <= first:
            passed += 1
        at, next_ = first, passed
        while next_ < len(causes) and causes[next_][0] < after:
            start, end, cause = causes[next_]
            next_ += 1
            if end <= at:
                continue
            if start > at:
                runs.append(Run(at, start, None))
                at = start
            runs.append(Run(at, min(end, after), cause))
            at = min(end, after)
        if at < after:
            runs.append(Run(at, after, None))
    return runs if len(runs) <= MOST_RUNS else _by_day(runs)


def _by_day(runs: Sequence[Run]) -> list[Run]:
    """A run for each day that has any, and a single one for adjacent days that are missing altogether."""
    merged: list[Run] = []
    for run in runs:
        if merged and (merged[-1].after - 1) // SLOTS == run.first // SLOTS:
            last = merged[-1]
            merged[-1] = Run(last.first, run.after, last.cause or run.cause)
        else:
            merged.append(run)
    return merged


def revised(
    old: Sequence[Gap], runs: Sequence[Run], span: Span, now_ms: int, *, is_repair: bool
) -> list[Gap]:
    """The gaps that touch a span after a fetch of it, in which these runs are missing.

    A run keeps the age and the tries of the gap that it was part of. A repair that did not help counts as a try.
    """
    low, high = span
    gaps = []
    for gap in old:
        if gap.first < low:
            gaps.append(gap._replace(after=min(gap.after, low)))
        if gap.after > high:
            gaps.append(gap._replace(first=max(gap.first, high)))
    for run, known in _with_gaps(runs, old):
        if not known:
            due_ms = now_ms + round(pause(REPAIR_PAUSES, 1) * 1000)
            gaps.append(Gap(*run, now_ms, 0, due_ms))
            continue
        oldest = min(known, key=lambda gap: gap.found_ms)
        gap = oldest._replace(first=run.first, after=run.after, cause=run.cause or oldest.cause)
        if is_repair and gap.due_ms is not None and gap.due_ms <= now_ms:
            gap = _tried(gap, now_ms)
        gaps.append(gap)
    return sorted(gaps)


def _with_gaps(runs: Iterable[Run], old: Iterable[Gap]) -> Iterator[tuple[Run, list[Gap]]]:
    """Each run, which are in order, with the gaps that it touches.

    In one pass, since a source may leave out a half-hour of each day of ten years.
    """
    gaps = sorted(old, key=lambda gap: gap.first)
    passed = 0
    for run in runs:
        while passed < len(gaps) and gaps[passed].after <= run.first:
            passed += 1
        ahead = passed
        known = []
        while ahead < len(gaps) and gaps[ahead].first < run.after:
            if gaps[ahead].after > run.first:
                known.append(gaps[ahead])
            ahead += 1
        yield run, known


def _tried(gap: Gap, now_ms: int) -> Gap:
    tries = gap.tries + 1
    if now_ms - gap.found_ms >= REPAIRED_FOR * 1000:
        return gap._replace(tries=tries, due_ms=None)
    return gap._replace(tries=tries, due_ms=now_ms + round(pause(REPAIR_PAUSES, tries + 1) * 1000))


def revise(
    transaction: InTransaction,
    meter_id: str,
    channel: ReadingChannel,
    span: Span,
    runs: Sequence[Run],
    *,
    is_repair: bool,
    makes_new: bool = True,
) -> Script[None]:
    """Writes the gaps of a span of a locked meter's channel after a fetch.

    A fetch that gave nothing of the channel makes no new ones: what is left of those that are known stays.
    """
    place: dict[str, Any] = {"meter_id": meter_id, "channel": channel.code}
    found = yield _GAPS, {**place, "low": span[0], "high": span[1]}
    old = [Gap(*row) for row in found]
    if not makes_new:
        runs = [
            Run(max(run.first, gap.first), min(run.after, gap.after), run.cause)
            for run, known in _with_gaps(runs, old)
            for gap in known
        ]
    now_ms = clock.to_ms(clock.now())
    new = revised(old, runs, span, now_ms, is_repair=is_repair)
    before = set(old)
    if gone := before - set(new):
        yield _DELETE, {**place, "rows": rows({"first": gap.first} for gap in gone)}
    if added := [gap for gap in new if gap not in before]:
        yield (
            _INSERT.of(is_on_sqlite(transaction)),
            {**place, "rows": rows(gap._asdict() for gap in added)},
        )
