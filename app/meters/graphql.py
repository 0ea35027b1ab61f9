"""Meters in GraphQL."""

from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import false, or_
from sqlmodel import col

from app.auth.actor import Actor
from app.consents import coverage
from app.consents.coverage import MeterState
from app.consents.models import Decision
from app.consents.models import HostedConsent as HostedConsentRow
from app.core import clock
from app.customers.models import Customer as CustomerRow
from app.events.catalogue import EventType
from app.events.models import EventRecord
from app.graphql.compiled.declare import Computed, One, ReadContext, compiled, computed, one
from app.graphql.compiled.reads import connection, read_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.filters import Filter, chosen, compared, labelled, names
from app.graphql.nodes import Node, find, find_owner, shown, shows
from app.graphql.pagination import Connection, page_request
from app.graphql.scalars import Metadata
from app.meters import models, numbers
from app.meters.events import ValidityState
from app.meters.kinds import DataSource, MeterStatus, MeterType
from app.readings.arguments import From, Length, Lookback, To
from app.readings.kinds import Granularity

if TYPE_CHECKING:
    from app.consents.graphql import HostedConsent
    from app.customers.graphql import Customer
    from app.readings.graphql import IntervalData

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyHostedConsent = Annotated["HostedConsent", strawberry.lazy("app.consents.graphql")]
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


# Not scoped, because whoever sees a meter sees the consent that counts for it.
THE_ONE_THAT_COUNTS = One(
    on=lambda meter, consent, at: consent("id") == coverage.counting(meter("id"), at), scoped=False
)


def _of_standing(value: Any) -> Computed:
    """A function of the meter's flags and the consent that counts."""

    def computed(
        asked: ReadContext, is_disabled: bool, invalid: bool, decision: str | None, expires_at: Any
    ) -> Any:
        consent = None if decision is None else Decision(decision, expires_at)
        return value(models.MeterFlags(is_disabled, invalid), consent, asked.at)

    flags, of = ("is_disabled", "has_invalid_number"), ("decision", "expires_at")
    return Computed(computed, flags, of=THE_ONE_THAT_COUNTS, of_model=HostedConsentRow, of_columns=of)


@shows(models.Meter, "mtr")
@compiled(
    models.Meter,
    description=computed(lambda asked, note: note if asked.viewer.sees_notes else None, "description"),
    metadata=computed(lambda asked, labels: labels if asked.viewer.sees_notes else {}, "labels"),
    customer=one("customer_id"),
    hosted_consent=THE_ONE_THAT_COUNTS,
    status=_of_standing(coverage.status),
    validity_state=_of_standing(ValidityState.of),
)
@strawberry.type
class Meter(Node):
    """An electricity or gas meter of one customer, which it never leaves."""

    id: strawberry.ID
    number: str
    """MPAN core (13 digits; the 21-digit form is stored as its core) or MPRN (6 to 10)."""
    type: MeterType
    """The energy that it measures; gas is in kWh here too."""
    description: str | None
    """The account's own note; null to a viewer bound to one customer."""
    address: str | None
    """The place where it is."""
    metadata: Metadata
    """The account's own keys and values; {} to a viewer bound to one customer."""
    data_source: DataSource
    """The source of its readings, as the account named it."""
    created_at: datetime
    updated_at: datetime
    row: strawberry.Private[models.Meter]
    viewer: strawberry.Private[Actor]

    @classmethod
    def of(cls, row: models.Meter, viewer: Actor) -> "Meter":
        return cls(
            id=strawberry.ID(row.id),
            number=row.number,
            type=MeterType[row.type],
            description=row.description if viewer.sees_notes else None,
            address=row.address,
            metadata=Metadata(row.labels if viewer.sees_notes else {}),
            data_source=DataSource[row.data_source],
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
            viewer=viewer,
        )

    @strawberry.field
    async def status(self, info: Info) -> MeterStatus:
        """How it stands now."""
        consent, at = await self._standing(info)
        return coverage.status(self.row, consent, at)

    @strawberry.field
    async def validity_state(self, info: Info) -> MeterValidityState:
        """The reasons why it may be inactive, as of now."""
        consent, at = await self._standing(info)
        return MeterValidityState(**ValidityState.of(self.row, consent, at).model_dump())

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer:
        """The customer that it belongs to."""
        found: Customer = await find_owner(info.context, self.viewer, CustomerRow, self.row.customer_id)
        return found

    @strawberry.field
    async def hosted_consent(self, info: Info) -> LazyHostedConsent | None:
        """The consent that counts: the valid one with the latest expiry, else the latest decided, else the
        pending one."""
        consent, _at = await self._standing(info)
        # With a consent's token no other consent is there.
        hidden = consent is not None and self.viewer.consent_id not in (None, consent.id)
        return None if hidden else shown(consent, self.viewer)

    @strawberry.field
    async def interval_data(
        self,
        info: Info,
        from_: From = None,
        to: To = None,
        lookback: Lookback = None,
        granularity: Length = Granularity.HALF_HOUR,
    ) -> LazyIntervalData:
        """The meter's consumption over a period, by the lookback or from and to; by default its last day with
        data."""
        # By name, as lazy types are found, because features' GraphQL modules do not import each other.
        readings = import_module("app.readings.graphql")
        asked = (from_, to, lookback, granularity)
        return await readings.interval_data(info, self.viewer, self, self.row.id, *asked)  # type: ignore[no-any-return]

    async def _standing(self, info: Info) -> tuple[HostedConsentRow | None, datetime]:
        """The consent that counts for this meter, and as of when; one statement for all meters of the answer."""

        async def load(meter_ids: list[str]) -> list[tuple[HostedConsentRow | None, datetime]]:
            at = clock.now()
            linked = await info.context.execute(coverage.linked_consents(meter_ids, at))
            best: dict[str, HostedConsentRow] = {}
            for meter_id, consent in linked:
                best.setdefault(meter_id, consent)
            return [(best.get(one), at) for one in meter_ids]

        return await info.context.loader("consent that counts", load).load(self.row.id)


@event_type(EventType.METER_CREATED)
@compiled(EventRecord, meter=one("subject_id"), customer=one("customer_id"))
@strawberry.type
class MeterCreatedEvent(Event):
    """A meter was created, by itself or by an approved consent."""

    @strawberry.field
    async def meter(self, info: Info) -> Meter | None:
        """The meter as of now; null once deleted."""
        row = await find(info.context, self.viewer, models.Meter, self.record.subject_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        """The meter's customer as of now; null once deleted."""
        row = await find(info.context, self.viewer, CustomerRow, self.record.customer_id or "")
        return shown(row, self.viewer)  # type: ignore[no-any-return]


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
    @strawberry.field
    async def meter(self, info: Info, id: strawberry.ID) -> Meter | None:
        """The meter with this id; null if there is none."""
        return await read_one(info, models.Meter, id)  # type: ignore[no-any-return]

    @strawberry.field
    async def meters(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        filter: MeterFilter | None = None,
    ) -> Connection[Meter]:
        """The meters that the viewer may see, in the order of their ids."""
        request = page_request(first, after, last, before)
        return await connection(info, models.Meter, request, filter)  # type: ignore[no-any-return]
