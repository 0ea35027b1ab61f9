"""Events in GraphQL: the interface, the log as a connection, its ends, the catalogue.

A feature registers the type of its event by `@event_type(MeterCreated)` above a subclass of `Event`. Its nested objects
are as they are now; `data` is as of the event.
"""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import strawberry
from sqlalchemy import select
from sqlmodel import col
from strawberry.scalars import JSON

from app.auth.actor import Actor, visible
from app.events import cursors
from app.events.catalogue import EventData, catalogue, event_class
from app.events.models import EventRecord, Stream
from app.events.record_filter import CONDITIONS
from app.graphql.compiled.declare import column, computed
from app.graphql.compiled.reads import connection, narrowed
from app.graphql.compiled.sources import Computed, One, ReadContext, sourced
from app.graphql.context import Context, Info
from app.graphql.filters import Filter, compared, values
from app.graphql.lazy_types import FoundOnce
from app.graphql.nodes import Node, find, row_type
from app.graphql.pagination import Connection, PageRequest, page_of, page_request, paged
from app.graphql.root_fields import by_id
from app.graphql.scalars import Long

if TYPE_CHECKING:
    from app.graphql.event_types import EventType

C = TypeVar("C", bound=type)
# The enum is made with the schema, when every feature has declared its events.
LazyEventType = Annotated["EventType", FoundOnce(strawberry.lazy("app.graphql.event_types"))]

_types: dict[str, type["Event"]] = {}


def _cursor(read: ReadContext, account_id: str, sequence: int, epoch: str) -> str:
    return cursors.encode(read.services.keyring, account_id, epoch, sequence)


async def stream_of(context: Context, viewer: Actor) -> Stream:
    """The viewer's stream, read once per operation."""

    async def load(account_ids: list[str]) -> list[Stream]:
        rows = await context.execute(select(Stream).where(col(Stream.account_id).in_(account_ids)))
        found = {row.account_id: row for row in rows.scalars()}
        return [found[one] for one in account_ids]

    return await context.loader("stream", load).load(viewer.account_id)


async def find_event(context: Context, viewer: Actor, identifier: str) -> "Event | None":
    """The event with this id, None if the viewer sees none."""
    record = await find(context, viewer, EventRecord, identifier)
    if record is None:
        return None
    return show_event(context, record, (await stream_of(context, viewer)).epoch, viewer)


# A viewer that sees an event sees its place in the log, so the scope is not checked again.
_STREAM = One(
    key="account_id",
    on=lambda event, stream, _: stream("account_id") == event("account_id"),
    model=Stream,
    scoped=False,
)
_CURSOR = Computed(_cursor, ("account_id", "sequence"), of=_STREAM, of_columns=("epoch",))


@row_type(EventRecord, "evt", find=find_event, by="type", variants=_types)
@strawberry.interface
class Event(Node):
    """One entry of the account's event log."""

    id: strawberry.ID
    type: LazyEventType = computed(lambda _, name: name, "type")
    """Its kind."""
    name: str = column("type")
    """Its kind by the dotted name, such as meter_data.received."""
    sequence: Long | None = computed(
        lambda read, sequence: Long(sequence) if read.viewer.sees_whole_account else None, "sequence"
    )
    """1, 2, 3 … within the account without a gap; null for a viewer bound to one customer."""
    cursor: str = strawberry.field(metadata=sourced(_CURSOR))
    """Its place in the log: pages, streams and replays begin just after it."""
    occurred_at: datetime
    """When it was recorded, at the end of its change's transaction."""
    data: JSON = computed(
        lambda read, name, data: data if read.viewer.sees_notes else event_class(name).without_notes(data),
        "type",
        "data",
    )
    """The catalogue's data as of the event: the payload of a webhook without a selection. A viewer bound to one
    customer is shown no metadata in it, nor a meter's description."""


def event_type(event: type[EventData]) -> Callable[[C], C]:
    """Registers the GraphQL type of an event."""

    def register(cls: C) -> C:
        _types[event.type] = cls
        return cls

    return register


def event_types() -> list[type[Event]]:
    """The GraphQL types of all events. Raises ValueError for an event that has none."""
    for event in catalogue():
        if event.type not in _types:
            raise ValueError(f"Declare a GraphQL type for {event.type}, with @event_type({event.__name__}).")
    return list(_types.values())


def show_event(context: Context, record: EventRecord, epoch: str, viewer: Actor) -> Event:
    """The GraphQL object of a record."""
    cursor = cursors.encode(context.services.keyring, record.account_id, epoch, record.sequence)
    return _types[record.type].of(record, viewer, cursor=cursor)


@strawberry.input
class EventFilter(Filter):
    """Match the event's record of when it happened. OR within a list, AND across; [] matches nothing, null
    everything."""

    types: list[LazyEventType] | None = compared(CONDITIONS["types"], values)
    """Kinds, one of which the event must be."""
    meter_ids: list[strawberry.ID] | None = compared(CONDITIONS["meter_ids"])
    """Ids of meters, one of which the event must be about: 1,000 at most."""
    customer_ids: list[strawberry.ID] | None = compared(CONDITIONS["customer_ids"])
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


async def _events(self: Any, info: Info, filter: EventFilter | None = None, **page: Any) -> Any:
    context, viewer, keyring = info.context, info.context.viewer, info.context.services.keyring
    # The beginning and end of the log decide whether a cursor is valid.
    has_cursor = page["after"] is not None or page["before"] is not None
    stream = await stream_of(context, viewer) if has_cursor else None

    def decoded(cursor: str, argument: str) -> int:
        assert stream is not None  # noqa: S101 - read above for any cursor
        return cursors.decode(keyring, stream, cursor, argument)

    request = page_request(**page, key=decoded)
    return await connection(
        info,
        EventRecord,
        request,
        filter,
        key="sequence",
        uncompiled=lambda: _page_of_events(context, viewer, request, filter),
    )


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

    type: LazyEventType
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
    """The catalogue, made once: the schemas of its data take milliseconds, and strangers may ask for them."""
    return [
        EventTypeInfo(
            type=cast(Any, one.type),
            name=one.type,
            description=one.description,
            schema=cast(JSON, one.json_schema()),
            example=cast(JSON, one.example),
        )
        for one in catalogue()
    ]


@strawberry.type
class EventQueries:
    event: Event | None = by_id(EventRecord)
    """The event with this id; null if there is none, or it is past retention."""

    events: Connection[Event] = strawberry.field(resolver=paged(_events, EventFilter))
    """The log, oldest first."""

    @strawberry.field
    async def event_stream(self, info: Info) -> EventStream:
        """Where the log begins and ends now: read it, then the state, then subscribe after latestCursor."""
        viewer, keyring = info.context.viewer, info.context.services.keyring
        stream = await stream_of(info.context, viewer)
        is_bound = not viewer.sees_whole_account
        return EventStream(
            oldest_cursor=cursors.oldest(keyring, stream, is_unlinkable=is_bound),
            latest_cursor=cursors.latest(keyring, stream, is_unlinkable=is_bound),
        )

    @strawberry.field
    def event_types(self) -> list[EventTypeInfo]:
        """The catalogue: every kind of event, which needs no credential."""
        return shown_catalogue()
