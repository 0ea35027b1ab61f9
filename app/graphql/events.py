"""Events in GraphQL: the interface, the log as a connection, where it begins and ends, the catalogue.

A feature declares the type of its event with `@event_type(EventType.X)` above a subclass of `Event`, which finds its
nested objects as they are now; `data` is as of the event.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, cast

import strawberry
from sqlalchemy import select
from sqlmodel import col
from strawberry.scalars import JSON

from app.auth.actor import Actor, visible
from app.core.ids import is_id
from app.events import cursors, log
from app.events.catalogue import EventType, catalogue, event_class
from app.events.models import EventRecord, Stream
from app.graphql.compiled.declare import Computed, One, ReadContext, column, compiled, computed
from app.graphql.compiled.reads import connection, narrowed, read_one
from app.graphql.context import Context, Info
from app.graphql.filters import Filter, compared
from app.graphql.nodes import Node, has_ids
from app.graphql.pagination import Connection, PageRequest, page_of, page_request
from app.graphql.scalars import Long

C = TypeVar("C", bound=type)
strawberry.enum(EventType)


_types: dict[str, type["Event"]] = {}


def _sequence_for(viewer: Actor, sequence: int) -> Long | None:
    return Long(sequence) if viewer.sees_whole_account else None


def _data_for(viewer: Actor, name: str, data: dict[str, Any]) -> dict[str, Any]:
    return data if viewer.sees_notes else event_class(name).without_notes(data)


def _cursor(asked: ReadContext, account_id: str, sequence: int, epoch: str) -> str:
    return cursors.encode(asked.services.keyring, account_id, epoch, sequence)


has_ids(EventRecord, "evt")

# Not scoped, because whoever sees an event sees its place in the log.
THE_STREAM = One(
    key="account_id", on=lambda event, stream, _: stream("account_id") == event("account_id"), scoped=False
)


@compiled(
    EventRecord,
    by="type",
    variants=_types,
    type=computed(lambda _, name: EventType(name), "type"),
    name=column("type"),
    sequence=computed(lambda asked, sequence: _sequence_for(asked.viewer, sequence), "sequence"),
    data=computed(lambda asked, name, data: _data_for(asked.viewer, name, data), "type", "data"),
    cursor=Computed(
        _cursor, ("account_id", "sequence"), of=THE_STREAM, of_model=Stream, of_columns=("epoch",)
    ),
)
@strawberry.interface
class Event(Node):
    """One entry of the account's event log."""

    id: strawberry.ID
    type: EventType
    """Its kind."""
    name: str
    """Its kind by the dotted name, such as meter_data.received."""
    sequence: Long | None
    """1, 2, 3 … within the account without a gap; null for a viewer bound to one customer."""
    cursor: str
    """Its place in the log: pages, streams and replays begin just after it."""
    occurred_at: datetime
    """When it was recorded, at the end of its change's transaction."""
    data: JSON
    """The catalogue's data as of the event: the payload of a webhook without a selection. A viewer bound to one
    customer is shown no metadata in it, nor a meter's description."""
    record: strawberry.Private[EventRecord]
    viewer: strawberry.Private[Actor]


def event_type(kind: EventType) -> Callable[[C], C]:
    """Register the GraphQL type of one event."""

    def register(cls: C) -> C:
        _types[kind.value] = cls
        return cls

    return register


def event_types() -> list[type[Event]]:
    return list(_types.values())


def show_event(context: Context, record: EventRecord, epoch: str, viewer: Actor) -> Event:
    """A record as its GraphQL type."""
    keyring = context.services.keyring
    return _types[record.type](
        id=strawberry.ID(record.id),
        type=EventType(record.type),
        name=record.type,
        sequence=_sequence_for(viewer, record.sequence),
        cursor=cursors.encode(keyring, record.account_id, epoch, record.sequence),
        occurred_at=record.occurred_at,
        data=cast(JSON, _data_for(viewer, record.type, record.data)),
        record=record,
        viewer=viewer,
    )


async def stream_of(context: Context, viewer: Actor) -> Stream:
    """The viewer's stream, read once per operation."""

    async def load(account_ids: list[str]) -> list[Stream]:
        rows = await context.execute(select(Stream).where(col(Stream.account_id).in_(account_ids)))
        found = {row.account_id: row for row in rows.scalars()}
        return [found[one] for one in account_ids]

    return await context.loader("stream", load).load(viewer.account_id)


async def find_event(context: Context, viewer: Actor, identifier: str) -> Event | None:
    """The event with this id if the viewer may see it."""
    if not is_id(identifier, "evt"):
        return None

    async def load(ids: list[str]) -> list[EventRecord | None]:
        statement = visible(select(EventRecord), viewer).where(col(EventRecord.id).in_(ids))
        found = {row.id: row for row in (await context.execute(statement)).scalars()}
        return [found.get(one) for one in ids]

    record = await context.loader(("event", viewer), load).load(identifier)
    if record is None:
        return None
    return show_event(context, record, (await stream_of(context, viewer)).epoch, viewer)


async def read_event(info: Info, identifier: str) -> Any:
    """The event with this id for a root field."""
    context = info.context
    return await read_one(
        info, EventRecord, identifier, lambda: find_event(context, context.viewer, identifier)
    )


@strawberry.input
class EventFilter(Filter):
    """Match the event's record of when it happened. OR within a list, AND across; [] matches nothing, null
    everything."""

    types: list[EventType] | None = compared(
        col(EventRecord.type).in_, lambda given: [kind.value for kind in given]
    )
    """Kinds, one of which the event must be."""
    meter_ids: list[strawberry.ID] | None = compared(log.names_meter_in)
    """Ids of meters, one of which the event must be about: 1,000 at most."""
    customer_ids: list[strawberry.ID] | None = compared(col(EventRecord.customer_id).in_)
    """Ids of customers, one of whom the event must be about: 1,000 at most."""


async def _page_of_events(
    context: Context, viewer: Actor, request: PageRequest, filter: EventFilter | None
) -> Connection[Event]:
    epoch, keyring = (await stream_of(context, viewer)).epoch, context.services.keyring
    statement = visible(select(EventRecord), viewer)
    if filter is not None:
        statement = narrowed(statement, filter, viewer)
    page = await page_of(
        context,
        statement,
        request,
        EventRecord.sequence,
        cursor=lambda row: cursors.encode(keyring, row.account_id, epoch, row.sequence),
    )
    return Connection.of(page, lambda row: show_event(context, row, epoch, viewer))


@strawberry.type
class EventStream:
    """The ends of the account's event log."""

    oldest_cursor: str | None
    """The cursor just before the oldest event that is kept."""
    latest_cursor: str
    """The cursor of the log's end as of now."""


@strawberry.type
class EventTypeInfo:
    """One kind of event in the catalogue."""

    type: EventType
    """The kind, as filters and sendTestEvent take it."""
    name: str
    """Its dotted name, as destinations' eventTypes and webhooks have it."""
    description: str
    """A sentence that says when it happens."""
    schema: JSON
    """The JSON Schema of its data."""
    example: JSON
    """An example of its data."""


@cache
def shown_catalogue() -> list[EventTypeInfo]:
    """The catalogue, made once: the schemas of its data take milliseconds, and everyone may ask for them."""
    return [
        EventTypeInfo(
            type=one.type,
            name=one.type.value,
            description=one.description,
            schema=cast(JSON, one.json_schema()),
            example=cast(JSON, one.example),
        )
        for one in catalogue()
    ]


@strawberry.type
class EventQueries:
    @strawberry.field
    async def event(self, info: Info, id: strawberry.ID) -> Event | None:
        """The event with this id; null if there is none, or it is past retention."""
        return await read_event(info, id)  # type: ignore[no-any-return]

    @strawberry.field
    async def events(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        filter: EventFilter | None = None,
    ) -> Connection[Event]:
        """The log, oldest first."""
        context, viewer, keyring = info.context, info.context.viewer, info.context.services.keyring
        # What a cursor stands for depends on where the log begins and ends.
        stream = None if after is None and before is None else await stream_of(context, viewer)

        def decoded(cursor: str, argument: str) -> int:
            assert stream is not None  # noqa: S101 - read above for any cursor
            return cursors.decode(keyring, stream, cursor, argument)

        request = page_request(first, after, last, before, decoded)
        return await connection(  # type: ignore[no-any-return]
            info,
            EventRecord,
            request,
            filter,
            key="sequence",
            uncompiled=lambda: _page_of_events(context, viewer, request, filter),
        )

    @strawberry.field
    async def event_stream(self, info: Info) -> EventStream:
        """Where the log begins and ends now: read it, then the state, then subscribe after latestCursor."""
        stream = await stream_of(info.context, info.context.viewer)
        keyring = info.context.services.keyring
        return EventStream(
            oldest_cursor=cursors.oldest(keyring, stream), latest_cursor=cursors.latest(keyring, stream)
        )

    @strawberry.field
    def event_types(self) -> list[EventTypeInfo]:
        """The catalogue: every kind of event, which needs no credential."""
        return shown_catalogue()
