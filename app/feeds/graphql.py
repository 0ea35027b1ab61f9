"""Feeds and backfills in GraphQL. Viewers bound to a customer or a consent see none."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import select
from sqlmodel import col
from strawberry.scalars import JSON

from app.feeds import models
from app.feeds.enums import BackfillStatus, FeedKind, FeedStatus
from app.feeds.events import BackfillCompleted, FeedAttentionNeeded
from app.graphql.compiled.declare import column, computed, named_in_data, to_list, to_many, to_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.nodes import Node, RowObject, row_type
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.meters.models import Meter as MeterRow

if TYPE_CHECKING:
    from app.customers.graphql import Customer
    from app.meters.graphql import Meter

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyMeter = Annotated["Meter", strawberry.lazy("app.meters.graphql")]

for _kind in (FeedKind, FeedStatus, BackfillStatus):
    strawberry.enum(_kind)


def _soonest(due_at: Any, feed_id: Any, is_due: Any) -> Any:
    """The first by an index of due rows, however many meters a feed has."""
    return (
        select(due_at)
        .where(feed_id == col(models.Feed.id), is_due)
        .order_by(due_at)
        .limit(1)
        .correlate(models.Feed)
        .scalar_subquery()
    )


_DUE, _REPAIR = col(models.MeterFeed.due_at), col(models.MeterFeed.repair_at)
_DUE_OF_FEEDS = select(
    col(models.Feed.id),
    _soonest(_DUE, col(models.MeterFeed.feed_id), _DUE.is_not(None)),
    _soonest(_REPAIR, col(models.MeterFeed.feed_id), _REPAIR.is_not(None)),
    _soonest(
        col(models.Backfill.due_at), col(models.Backfill.feed_id), col(models.Backfill.completed_at).is_(None)
    ),
)


@row_type(models.Feed, "fed")
@strawberry.type
class Feed(Node):
    """A source that readings are fetched from. Credentials are encrypted and never shown."""

    id: strawberry.ID
    kind: FeedKind
    """The source."""
    name: str
    """The account's own name for it."""
    status: FeedStatus
    """Whether it fetches."""
    attention: str | None
    """What a person has to do; null if nothing."""
    settings: JSON
    """Its settings by their names."""
    last_run_at: datetime | None
    """When its source was last asked for readings; null if never."""
    created_at: datetime
    updated_at: datetime
    meters: Connection[LazyMeter] = to_many(
        models.MeterFeed.feed_id,
        through=models.MeterFeed,
        on=col(models.MeterFeed.meter_id) == col(MeterRow.id),
        key=col(models.MeterFeed.meter_id),
    )
    """The meters that it fetches, in the order of their ids."""
    row: strawberry.Private[models.Feed]

    @strawberry.field
    async def next_run_at(self, info: Info) -> datetime | None:
        """When the next fetch for any of its meters is or was due; null while there is none to make."""

        async def load(ids: list[str]) -> list[datetime | None]:
            statement = _DUE_OF_FEEDS.where(col(models.Feed.id).in_(ids))
            rows = await info.context.execute(statement)
            found = {row[0]: min((at for at in row[1:] if at is not None), default=None) for row in rows}
            return [found.get(one) for one in ids]

        return await info.context.loader("next runs of feeds", load).load(self.row.id)


@row_type(models.BackfillPart)
@strawberry.type
class BackfillPart(RowObject):
    """A part of a backfill, fetched and recorded at once."""

    number: int
    """1 for the newest, which is fetched first."""
    from_: datetime = computed(lambda _, at: at, "starts_at", name="from")
    """The period's start, inclusive."""
    to: datetime = column("ends_at")
    """The period's end, exclusive."""
    status: BackfillStatus
    """How it stands."""
    readings_changed: int
    """How many half-hours of it were new or differ from those before."""
    attempts: int
    """How often the source was asked for it."""
    error: str | None
    """Why the last attempt failed; null after one that did not."""


@row_type(models.Backfill, "bkf")
@strawberry.type
class Backfill(Node):
    """The fetching of a meter's history."""

    id: strawberry.ID
    meter: LazyMeter = to_one("meter_id")
    """The meter whose history it is."""
    feed: Feed | None = to_one("feed_id")
    """The feed that fetches it; null once deleted."""
    from_: datetime = computed(lambda _, at: at, "starts_at", name="from")
    """The period's start, inclusive."""
    to: datetime = column("ends_at")
    """The period's end, exclusive."""
    status: BackfillStatus
    """How it stands."""
    readings_changed: int
    """How many half-hours were new or differ from those before."""
    created_at: datetime
    completed_at: datetime | None
    """When it ended; null while it is under way."""
    parts: list[BackfillPart] = to_list(models.BackfillPart.backfill_id, key="number")
    """Newest first, as they are fetched."""


@event_type(BackfillCompleted)
@strawberry.type
class BackfillCompletedEvent(Event):
    """The history of a meter was fetched."""

    backfill: Backfill | None = to_one("subject_id")
    """The backfill as of now; null once its meter is deleted, and to a viewer bound to one customer."""
    meter: LazyMeter | None = named_in_data("meterId")
    """The meter as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The meter's customer as of now; null once deleted."""
    status: BackfillStatus = computed(lambda _, data: BackfillStatus[data["status"]], "data")
    """COMPLETE or COMPLETE_WITH_GAPS, as it ended."""


@event_type(FeedAttentionNeeded)
@strawberry.type
class FeedAttentionNeededEvent(Event):
    """A feed rests until a person has mended it."""

    feed: Feed | None = to_one("subject_id")
    """The feed as of now; null once deleted."""
    attention: str = computed(lambda _, data: data["attention"], "data")
    """The instruction to a person, as of the event."""


@strawberry.type
class FeedQueries:
    feed: Feed | None = by_id(models.Feed)
    """The feed with this id; null if there is none."""
    feeds: Connection[Feed] = pages(models.Feed)
    """The account's feeds, in the order of their ids."""
    backfill: Backfill | None = by_id(models.Backfill)
    """The backfill with this id; null if there is none."""
