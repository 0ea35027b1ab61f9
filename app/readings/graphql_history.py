"""Coverage and revisions of readings in GraphQL."""

from datetime import datetime

import strawberry

from app.auth.actor import Actor
from app.core import clock
from app.core.errors import Forbidden
from app.graphql.context import Info
from app.graphql.pagination import Connection, page_request
from app.graphql.scalars import MicroKwh
from app.readings.buckets import HALF_HOUR_MS
from app.readings.coverage import Gap, read_coverage
from app.readings.enums import ReadingChannel, ReadingQuality, ReadingReason
from app.readings.revisions import Replaced, cursor_key, read_revisions


@strawberry.type
class ReadingGap:
    """A run of half-hours without a reading."""

    from_: datetime = strawberry.field(name="from")
    """The start of the first one."""
    to: datetime
    """The end of the last one."""
    half_hours: int
    """How many there are."""
    cause: str | None
    """What the source said, if it said anything."""

    @classmethod
    def of(cls, gap: Gap) -> "ReadingGap":
        start, to = (clock.from_ms(half_hour * HALF_HOUR_MS) for half_hour in (gap.first, gap.end))
        return cls(from_=start, to=to, half_hours=gap.end - gap.first, cause=gap.cause)


@strawberry.type
class ReadingCoverage:
    """[from, to); to is the start of today in the UK by default, from the first reading."""

    channel: ReadingChannel
    """The channel that was counted."""
    from_: datetime | None = strawberry.field(name="from")
    """The period's start, inclusive; null if none was given and there is no reading."""
    to: datetime | None
    """The period's end, exclusive; null if none was given and there is no reading."""
    expected: int
    """The half-hours of the period."""
    present: int
    """How many of them have a reading."""
    estimated: int
    """How many of them have an estimated one."""
    missing: int
    """How many of them have no reading."""
    complete: bool
    """Whether every half-hour of the period has a reading, and there is one at least."""
    latest_at: datetime | None
    """The start of the channel's latest half-hour with a reading, in any period."""
    gaps: list[ReadingGap]
    """Oldest first, 1,000 at most."""


@strawberry.type
class ReadingRevision:
    """A half-hour as it was before another value or quality replaced it."""

    start_at: datetime
    """The half-hour's start, in UTC."""
    consumption: MicroKwh
    """The value that was replaced, in kWh."""
    quality: ReadingQuality
    """The quality that it had."""
    reason: ReadingReason
    """Why it had been recorded."""
    recorded_at: datetime
    """When it had been recorded."""
    replaced_at: datetime
    """When the next one was recorded."""

    @classmethod
    def of(cls, one: Replaced) -> "ReadingRevision":
        return cls(
            start_at=one.start_at,
            consumption=MicroKwh(one.consumption),
            quality=one.quality,
            reason=one.reason,
            recorded_at=one.recorded_at,
            replaced_at=one.replaced_at,
        )


async def coverage(
    info: Info,
    viewer: Actor,
    meter_id: str,
    start: datetime | None,
    end: datetime | None,
    channel: ReadingChannel,
) -> ReadingCoverage:
    """Loads the coverage of a meter that the viewer sees."""
    _require_readings(viewer)
    found = await read_coverage(info.context, meter_id, channel, start, end, clock.now())
    if found.gaps:
        await info.context.turn()
    return ReadingCoverage(
        channel=channel,
        from_=found.start,
        to=found.end,
        expected=found.expected,
        present=found.present,
        estimated=found.estimated,
        missing=found.missing,
        complete=found.missing == 0 and found.expected > 0,
        latest_at=found.latest_at,
        gaps=[ReadingGap.of(gap) for gap in found.gaps],
    )


async def revisions(
    info: Info,
    viewer: Actor,
    meter_id: str,
    first: int | None,
    after: str | None,
    last: int | None,
    before: str | None,
    channel: ReadingChannel,
) -> Connection[ReadingRevision]:
    """Loads a page of the revisions of a meter that the viewer sees."""
    _require_readings(viewer)
    request = page_request(first, after, last, before, cursor_key)
    return Connection.of(await read_revisions(info.context, meter_id, channel, request), ReadingRevision.of)


def _require_readings(viewer: Actor) -> None:
    """Raises Forbidden."""
    if viewer.consent_id is not None:
        raise Forbidden("A consent token shows the consent, not readings.")
