"""Readings in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlmodel import col, select

from app.auth.actor import Actor, visible
from app.core import clock
from app.core.errors import BadUserInput, Forbidden
from app.db.raw_statements import Script
from app.graphql.compiled.declare import column, computed, named_in_data, to_one
from app.graphql.compiled.reads import json_writer
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.idempotency import Result
from app.graphql.mutations import ScriptContext, UserError, mutation
from app.graphql.nodes import column_values, find, shown
from app.graphql.scalars import MicroKwh
from app.meters import numbers
from app.meters.models import Meter as MeterRow
from app.readings import actions, intervals
from app.readings.arguments import Channel, From, Length, Lookback, To
from app.readings.enums import EnergyUnit, Granularity, ReadingChannel, ReadingQuality, ReadingReason
from app.readings.events import MeterDataOverdue, MeterDataReceived
from app.readings.interval_json import IntervalWriter
from app.readings.intervals import Intervals
from app.readings.reading_lists import ReadingList

if TYPE_CHECKING:
    from app.customers.graphql import Customer
    from app.feeds.graphql import Backfill
    from app.meters.graphql import Meter

LazyMeter = Annotated["Meter", strawberry.lazy("app.meters.graphql")]
LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyBackfill = Annotated["Backfill", strawberry.lazy("app.feeds.graphql")]

for _kind in (EnergyUnit, Granularity, ReadingChannel, ReadingQuality, ReadingReason):
    strawberry.enum(_kind)


@strawberry.type
class Interval:
    """The consumption of one interval."""

    start_at: datetime = column("start")
    """The interval's start, in UTC."""
    end_at: datetime = column("end")
    """The interval's end, in UTC, where the next one starts."""
    consumption: MicroKwh = column("micro_kwh")
    """The sum of its readings, in kWh."""
    quality: ReadingQuality
    """ESTIMATED if any part is."""
    missing_count: int
    """How many of its half-hours up to now have no reading."""


def _intervals(root: "IntervalData", info: Info) -> list[Interval]:
    found = root.found
    writer = json_writer(info, IntervalWriter)
    if writer is not None:
        return intervals.written(info.context, writer, found)  # type: ignore[return-value]
    return [Interval(**column_values(Interval, one)) for one in found.buckets()]


@strawberry.type
class IntervalData:
    """[from, to), widened to whole buckets; the last day with data by default; 17,568 intervals at most.
    Buckets without a reading are absent."""

    meter: LazyMeter
    """The meter that was read."""
    channel: ReadingChannel
    """The channel that was read."""
    from_: datetime = strawberry.field(name="from")
    """The period's start, inclusive."""
    to: datetime
    """The period's end, exclusive."""
    granularity: Granularity
    """The length of the intervals."""
    unit: EnergyUnit
    """The unit of consumption and total."""
    total: MicroKwh
    """The sum of all readings of the period, in kWh."""
    intervals: list[Interval] = strawberry.field(resolver=_intervals)
    """The intervals that have a reading, the oldest first."""
    missing_count: int
    """Half-hours without a reading up to now."""
    found: strawberry.Private[Intervals]


async def interval_data(
    info: Info,
    viewer: Actor,
    meter: Any,
    meter_id: str,
    from_: datetime | None,
    to: datetime | None,
    lookback: str | None,
    granularity: Granularity,
    channel: ReadingChannel,
) -> IntervalData:
    """Loads the intervals of a meter that the viewer sees; `meter` is its GraphQL object."""
    if viewer.consent_id is not None:
        raise Forbidden("A consent token shows the consent, not readings.")
    now = clock.now()
    period = intervals.parse_period(from_, to, lookback, granularity, now)
    found = await intervals.read(info.context, meter_id, channel, period, now)
    return IntervalData(
        meter=meter,
        channel=channel,
        from_=found.start,
        to=found.end,
        granularity=granularity,
        unit=EnergyUnit.KWH,
        total=MicroKwh(found.sums.micro_kwh),
        missing_count=found.sums.missing_count,
        found=found,
    )


@event_type(MeterDataReceived)
@strawberry.type
class MeterDataReceivedEvent(Event):
    """Readings of a meter were recorded or changed."""

    meter: LazyMeter | None = to_one("subject_id")
    """The meter as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The meter's customer as of now; null once deleted."""
    from_: datetime = computed(lambda _, data: clock.parse_utc(data["from"]), "data", name="from")
    """The start of the first half-hour that is new or changed."""
    to: datetime = computed(lambda _, data: clock.parse_utc(data["to"]), "data")
    """The end of the last half-hour that is new or changed; exclusive."""
    interval_count: int = computed(lambda _, data: data["intervalCount"], "data")
    """How many half-hours are new or changed."""
    channel: ReadingChannel = computed(
        lambda _, data: ReadingChannel[data.get("channel", ReadingChannel.IMPORT.name)], "data"
    )
    """The channel that they are of."""
    reason: ReadingReason = computed(
        lambda _, data: ReadingReason[data.get("reason", ReadingReason.PUSH.name)], "data"
    )
    """Why they changed."""
    estimated_count: int | None = computed(lambda _, data: data.get("estimatedCount"), "data")
    """How many of them are estimated; null where that was not counted."""
    backfill: LazyBackfill | None = named_in_data("backfillId")
    """The backfill that it is part of; null outside one, and to a viewer bound to one customer."""
    part: int | None = computed(lambda _, data: data.get("part"), "data")
    """Which part of a backfill this is, from 1; null outside a backfill."""
    parts: int | None = computed(lambda _, data: data.get("parts"), "data")
    """How many parts the backfill has; null outside a backfill."""


@event_type(MeterDataOverdue)
@strawberry.type
class MeterDataOverdueEvent(Event):
    """A meter has had no new readings for five days."""

    meter: LazyMeter | None = to_one("subject_id")
    """The meter as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The meter's customer as of now; null once deleted."""
    channel: ReadingChannel = computed(lambda _, data: ReadingChannel[data["channel"]], "data")
    """The channel that is silent."""
    latest_at: datetime | None = computed(
        lambda _, data: None if data["latestAt"] is None else clock.parse_utc(data["latestAt"]), "data"
    )
    """The start of the channel's latest half-hour with a reading; null if there was none."""


@strawberry.type
class ReadingQueries:
    @strawberry.field
    async def interval_data(
        self,
        info: Info,
        meter_id: strawberry.ID | None = None,
        meter_number: Annotated[
            str | None, strawberry.argument(description="The meter's number, unique for its customer.")
        ] = None,
        customer_id: strawberry.ID | None = None,
        from_: From = None,
        to: To = None,
        lookback: Lookback = None,
        granularity: Length = Granularity.HALF_HOUR,
        channel: Channel = ReadingChannel.IMPORT,
    ) -> IntervalData | None:
        """A meter's consumption: by meterId, or by meterNumber and customerId. lookback: 1d, 1w, 3m, 1y."""
        viewer = info.context.viewer
        row = await _meter(info, viewer, meter_id, meter_number, customer_id)
        if row is None:
            return None
        meter = shown(row, viewer)
        return await interval_data(info, viewer, meter, row.id, from_, to, lookback, granularity, channel)


async def _meter(
    info: Info, viewer: Actor, meter_id: str | None, number: str | None, customer_id: str | None
) -> MeterRow | None:
    if meter_id is not None and number is None and customer_id is None:
        return await find(info.context, viewer, MeterRow, meter_id)
    if meter_id is not None or number is None or customer_id is None:
        raise BadUserInput("Give meterId, or meterNumber and customerId.", field=["meterId"])
    try:
        core = numbers.parse(number).core
    except numbers.InvalidMeterNumber as error:
        raise BadUserInput(str(error), field=["meterNumber"]) from None
    statement = select(MeterRow).where(col(MeterRow.customer_id) == customer_id, col(MeterRow.number) == core)
    found: MeterRow | None = (await info.context.execute(visible(statement, viewer))).scalar_one_or_none()
    return found


@strawberry.input
class ReadingInput:
    """The energy that a meter measured in one half-hour."""

    start_at: datetime
    """The half-hour's start in UTC, at minute 0 or 30, in the past."""
    consumption: MicroKwh
    """Energy in kWh, 0 or more."""
    quality: ReadingQuality | None = None
    """Where the value comes from; ACTUAL unless ESTIMATED is given."""

    converted_list = staticmethod(ReadingList.of)


@strawberry.input
class RecordReadingsInput:
    meter_id: strawberry.ID
    channel: ReadingChannel = ReadingChannel.IMPORT
    """The channel that the readings are of."""
    readings: list[ReadingInput]
    """1 to 20,000 readings, each half-hour once."""
    idempotency_key: str | None = None


@strawberry.type
class RecordReadingsPayload:
    meter: LazyMeter | None = None
    accepted: int | None = None
    """How many readings were sent and are stored now."""
    changed: int | None = None
    """How many of them were new or differ from those before."""
    user_errors: list[UserError]


@strawberry.type
class ReadingMutations:
    @mutation(RecordReadingsPayload)
    def record_readings(self, context: ScriptContext, input: RecordReadingsInput) -> Script[Result]:
        """Record readings of one meter, all or none; those that are there are replaced. Needs a valid
        consent."""
        given: Any = input.readings
        if isinstance(given, ReadingList):
            readings = actions.validate_columns(given.columns)
        else:
            readings = actions.validate_readings(
                [
                    (one.start_at, int(one.consumption), one.quality is ReadingQuality.ESTIMATED)
                    for one in given
                ]
            )
        meter, recorded = yield from actions.record(
            context.transaction,
            context.actor,
            input.meter_id,
            readings,
            input.channel,
        )
        return {"meter": meter, "accepted": recorded.accepted, "changed": recorded.changed}
