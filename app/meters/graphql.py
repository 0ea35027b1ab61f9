"""Meters in GraphQL."""

from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import false, or_, select
from sqlmodel import col

from app.auth.actor import Actor, visible
from app.consents import coverage
from app.consents.coverage import MeterState
from app.consents.models import Decision
from app.consents.models import HostedConsent as HostedConsentRow
from app.core import clock
from app.feeds.models import Backfill as BackfillRow
from app.feeds.models import Feed as FeedRow
from app.feeds.models import MeterFeed
from app.graphql.compiled.declare import computed, to_many, to_one
from app.graphql.compiled.sources import One, ReadContext, sourced
from app.graphql.context import Context, Info
from app.graphql.events import Event, event_type
from app.graphql.filters import Filter, chosen, compared, labelled, names
from app.graphql.nodes import Node, row_type, shown
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.graphql.scalars import Metadata
from app.meters import models, numbers
from app.meters.enums import DataSource, MeterStatus, MeterType
from app.meters.events import MeterCreated, ValidityState
from app.readings.arguments import Channel, CoverageFrom, CoverageTo, From, Length, Lookback, To
from app.readings.enums import Granularity, ReadingChannel

if TYPE_CHECKING:
    from app.consents.graphql import HostedConsent
    from app.customers.graphql import Customer
    from app.feeds.graphql import Backfill, Feed
    from app.readings.graphql import IntervalData
    from app.readings.graphql_history import ReadingCoverage, ReadingRevision

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyHostedConsent = Annotated["HostedConsent", strawberry.lazy("app.consents.graphql")]
LazyFeed = Annotated["Feed", strawberry.lazy("app.feeds.graphql")]
LazyBackfill = Annotated["Backfill", strawberry.lazy("app.feeds.graphql")]
LazyReadingCoverage = Annotated["ReadingCoverage", strawberry.lazy("app.readings.graphql_history")]
LazyReadingRevision = Annotated["ReadingRevision", strawberry.lazy("app.readings.graphql_history")]
LazyIntervalData = Annotated["IntervalData", strawberry.lazy("app.readings.graphql")]

for _kind in (MeterType, MeterStatus, DataSource):
    strawberry.enum(_kind)


@strawberry.type
class MeterValidityState:
    """The reasons why a meter may be inactive."""

    missing_consent: bool
    """Whether it has neither a valid consent nor one that was given and has run out."""
    expired_consent: bool
    """Whether the consent that counts was given and has run out."""
    is_disabled_by_user: bool
    """Whether disableMeter was called, and enableMeter not since."""
    has_invalid_meter_number: bool
    """Whether it has a gas number that fails its check, which is accepted all the same."""


async def _find_effective_consent(
    context: Context, viewer: Actor, meter: models.Meter
) -> HostedConsentRow | None:
    """The effective consent of a meter; all meters of a response share a statement."""

    async def load(meter_ids: list[str]) -> list[HostedConsentRow | None]:
        best: dict[str, HostedConsentRow] = {}
        for meter_id, consent in await context.execute(coverage.ranked_consents(meter_ids, clock.now())):
            best.setdefault(meter_id, consent)
        return [best.get(one) for one in meter_ids]

    return await context.loader("effective consent", load).load(meter.id)


# A viewer that sees a meter sees its effective consent, so the scope is not checked again.
EFFECTIVE_CONSENT = One(
    on=lambda meter, consent, at: consent("id") == coverage.effective_consent_id(meter("id"), at),
    find=_find_effective_consent,
    model=HostedConsentRow,
    scoped=False,
)


async def _find_feed(context: Context, viewer: Actor, meter: models.Meter) -> FeedRow | None:
    """The feed of a meter; all meters of a response share a statement."""

    async def load(meter_ids: list[str]) -> list[FeedRow | None]:
        statement: Any = select(FeedRow, col(MeterFeed.meter_id))
        statement = visible(statement, viewer).join(MeterFeed, col(MeterFeed.feed_id) == col(FeedRow.id))
        statement = statement.where(col(MeterFeed.meter_id).in_(meter_ids))
        found = {meter_id: feed for feed, meter_id in await context.execute(statement)}
        return [found.get(one) for one in meter_ids]

    return await context.loader(("feeds of meters", viewer), load).load(meter.id)


_FEED = One(
    on=lambda meter, feed, _: (
        feed("id")
        == select(col(MeterFeed.feed_id))
        .where(col(MeterFeed.meter_id) == meter("id"))
        .correlate(meter("id").table)
        .scalar_subquery()
    ),
    find=_find_feed,
    model=FeedRow,
)


def _by_consent(value: Callable[[models.MeterFlags, Decision | None, datetime], Any]) -> Any:
    """A function of the meter's flags, the effective consent, and the time."""

    def of_columns(
        read: ReadContext, is_disabled: bool, invalid: bool, decision: str | None, expires_at: Any
    ) -> Any:
        consent = None if decision is None else Decision(decision, expires_at)
        return value(models.MeterFlags(is_disabled, invalid), consent, read.at)

    flags, columns = ("is_disabled", "has_invalid_number"), ("decision", "expires_at")
    return computed(of_columns, *flags, of=EFFECTIVE_CONSENT, of_columns=columns)


@row_type(models.Meter, "mtr")
@strawberry.type
class Meter(Node):
    """An electricity or gas meter of one customer, which it never leaves."""

    id: strawberry.ID
    number: str
    """MPAN core (13 digits; the 21-digit form is stored as its core) or MPRN (6 to 10)."""
    type: MeterType
    """The energy that it measures; gas is in kWh here too."""
    description: str | None = computed(
        lambda read, note: note if read.viewer.sees_notes else None, "description"
    )
    """The account's own note; null to a viewer bound to one customer."""
    address: str | None
    """The place where it is."""
    metadata: Metadata = computed(lambda read, labels: labels if read.viewer.sees_notes else {}, "labels")
    """The account's own keys and values; {} to a viewer bound to one customer."""
    data_source: DataSource
    """The source of its readings, as the account named it."""
    created_at: datetime
    updated_at: datetime
    status: MeterStatus = _by_consent(coverage.status)
    """How it stands now."""
    validity_state: MeterValidityState = _by_consent(ValidityState.of)
    """The reasons why it may be inactive, as of now."""
    customer: LazyCustomer = to_one("customer_id")
    """The customer that it belongs to."""

    @strawberry.field(metadata=sourced(EFFECTIVE_CONSENT))
    async def hosted_consent(self, info: Info) -> LazyHostedConsent | None:
        """The consent that counts: the valid one with the latest expiry, else the latest decided, else the
        pending one."""
        consent = await _find_effective_consent(info.context, self.viewer, self.row)
        # With a consent's token no other consent is there.
        hidden = consent is not None and self.viewer.consent_id not in (None, consent.id)
        return None if hidden else shown(consent, self.viewer)

    @strawberry.field(metadata=sourced(_FEED))
    async def feed(self, info: Info) -> LazyFeed | None:
        """Where its readings are fetched from; null: they are pushed or imported."""
        return shown(await _find_feed(info.context, self.viewer, self.row), self.viewer)  # type: ignore[no-any-return]

    backfills: Connection[LazyBackfill] = to_many(BackfillRow.meter_id, descending=True)
    """The fetching of its history, newest first."""

    @strawberry.field
    async def interval_data(
        self,
        info: Info,
        from_: From = None,
        to: To = None,
        lookback: Lookback = None,
        granularity: Length = Granularity.HALF_HOUR,
        channel: Channel = ReadingChannel.IMPORT,
    ) -> LazyIntervalData:
        """The meter's consumption over a period, by the lookback or from and to; by default its last day with
        data."""
        # By name, as lazy types are found, because features' GraphQL modules do not import each other.
        readings = import_module("app.readings.graphql")
        period = (from_, to, lookback, granularity, channel)
        return await readings.interval_data(info, self.viewer, self, self.row.id, *period)  # type: ignore[no-any-return]

    @strawberry.field
    async def coverage(
        self,
        info: Info,
        from_: CoverageFrom = None,
        to: CoverageTo = None,
        channel: Channel = ReadingChannel.IMPORT,
    ) -> LazyReadingCoverage:
        """The half-hours that have a reading, estimated ones and missing ones; by default from the first reading to
        the start of today in the UK."""
        history = import_module("app.readings.graphql_history")
        period = (from_, to, channel)
        return await history.coverage(info, self.viewer, self.row.id, *period)  # type: ignore[no-any-return]

    @strawberry.field
    async def revisions(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        channel: Channel = ReadingChannel.IMPORT,
    ) -> Connection[LazyReadingRevision]:
        """Values that a correction replaced, newest first."""
        history = import_module("app.readings.graphql_history")
        page = (first, after, last, before, channel)
        return await history.revisions(info, self.viewer, self.row.id, *page)  # type: ignore[no-any-return]


@event_type(MeterCreated)
@strawberry.type
class MeterCreatedEvent(Event):
    """A meter was created, by itself or by an approved consent."""

    meter: Meter | None = to_one("subject_id")
    """The meter as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The meter's customer as of now; null once deleted."""


@strawberry.input
class MeterFilter(Filter):
    """OR within a list, AND across; [] matches nothing, null everything."""

    customer_ids: list[strawberry.ID] | None = compared(col(models.Meter.customer_id).in_)
    """Ids of customers, to one of which the meter must belong: 1,000 at most."""
    numbers: list[str] | None = compared(
        col(models.Meter.number).in_, lambda given: [_stored(one) for one in given]
    )
    """Meter numbers in any form that createMeter takes: 1,000 at most."""
    types: list[MeterType] | None = compared(col(models.Meter.type).in_, names)
    """Types, one of which the meter must have."""
    statuses: list[MeterStatus] | None = chosen(
        lambda given, state: or_(false(), *map(state.has_status, given)), MeterState
    )
    """Statuses, one of which the meter must have now."""
    data_sources: list[DataSource] | None = compared(col(models.Meter.data_source).in_, names)
    """Sources, one of which the meter must have."""
    metadata: Metadata | None = labelled(col(models.Meter.labels))
    """Keys and values, all of which the meter must have."""
    missing_consent: bool | None = chosen(
        lambda given, state: state.missing if given else ~state.missing, MeterState
    )
    """The value that validityState.missingConsent must have now."""
    expired_consent: bool | None = chosen(
        lambda given, state: state.expired if given else ~state.expired, MeterState
    )
    """The value that validityState.expiredConsent must have now."""
    is_disabled_by_user: bool | None = chosen(lambda given, _: col(models.Meter.is_disabled).is_(given))
    """The value that validityState.isDisabledByUser must have."""
    has_invalid_meter_number: bool | None = chosen(
        lambda given, _: col(models.Meter.has_invalid_number).is_(given)
    )
    """The value that validityState.hasInvalidMeterNumber must have."""


def _stored(number: str) -> str:
    """The stored form of a number; one that no meter can have stays as it is and matches nothing."""
    try:
        return numbers.parse(number).core
    except numbers.InvalidMeterNumber:
        return number


@strawberry.type
class MeterQueries:
    meter: Meter | None = by_id(models.Meter)
    """The meter with this id; null if there is none."""
    meters: Connection[Meter] = pages(models.Meter, MeterFilter)
    """The meters that the viewer may see, in the order of their ids."""
