"""Attempts of deliveries in GraphQL, with what each of them sent."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, cast

import orjson
import strawberry
from sqlalchemy import and_, func, select
from sqlmodel import col
from strawberry.scalars import JSON

from app.auth.actor import Actor, visible
from app.core.errors import QueryTooComplex
from app.delivery.queue import models
from app.delivery.queue.attempt_store import body_digest
from app.delivery.queue.kinds import DestinationKinds
from app.events.models import EventRecord
from app.graphql.compiled.declare import computed
from app.graphql.context import Context, Info
from app.graphql.nodes import RowObject, row_type
from app.outbound.attempt import AttemptOutcome

MAX_BODIES = 16 * 1024 * 1024
"""Bytes of the bodies that one operation may read."""

strawberry.enum(AttemptOutcome)


def _shown(headers: str | None) -> JSON | None:
    return None if headers is None else cast(JSON, orjson.loads(headers))


@row_type(models.DeliveryAttempt)
@strawberry.type
class DeliveryAttempt(RowObject):
    """One try to deliver."""

    number: int
    """1, 2, 3 … within its delivery."""
    at: datetime
    """When it began."""
    duration_ms: int
    """How long it took, in milliseconds."""
    outcome: AttemptOutcome
    """How it ended."""
    response_status: int | None
    """The HTTP status, or the code of the mail server's reply; null without an answer."""
    response_body: str | None
    """The first 16 KB of the answer, or the mail server's reply; null without an answer."""
    error: str | None
    """A sentence that says why it failed; null if it did not."""
    request_headers: JSON | None = computed(lambda _, stored: _shown(stored), "request_headers")
    """The headers, names to values, those of the endpoint's own masked; null for a mail, and where nothing was sent."""
    row: strawberry.Private[models.DeliveryAttempt]

    @strawberry.field
    async def request_body(self, info: Info) -> str | None:
        """The body, as sent; null for a mail, and once it is no longer kept, such as about a deleted customer."""
        if self.row.request_digest is None:
            return None
        loader = info.context.loader(("bodies", self.viewer), _bodies_loader(info.context, self.viewer))
        body = await loader.load(self.row.delivery_id)
        return body.decode() if body is not None and body_digest(body) == self.row.request_digest else None


def _bodies_loader(context: Context, viewer: Actor) -> Callable[[list[str]], Awaitable[list[bytes | None]]]:
    """Loads the bodies of all deliveries in the answer at once, as they are kept or as their events make them."""
    delivery: Any = models.Delivery
    its_event = and_(
        col(EventRecord.account_id) == delivery.account_id,
        col(EventRecord.sequence) == delivery.event_sequence,
    )
    facts = (
        delivery.id,
        delivery.event_id,
        delivery.event_sequence,
        delivery.event_type,
        delivery.destination_id,
        delivery.test_event,
        delivery.created_at,
        delivery.body,
        col(EventRecord.occurred_at),
        col(EventRecord.data),
    )

    async def load(ids: list[str]) -> list[bytes | None]:
        size = visible(select(delivery), viewer).where(delivery.id.in_(ids))
        size = size.with_only_columns(func.coalesce(func.sum(func.length(delivery.body)), 0))
        if (await context.execute(size)).scalar_one() > MAX_BODIES:
            raise QueryTooComplex(
                f"These bodies have more than {MAX_BODIES} bytes; ask for fewer deliveries at once.",
                limit=MAX_BODIES,
            )
        kept = visible(select(*facts), viewer).outerjoin(EventRecord, its_event).where(delivery.id.in_(ids))
        bodies = {row.id: _body(context.services.kinds, row) for row in await context.execute(kept)}
        return [bodies.get(one) for one in ids]

    return load


def _body(kinds: DestinationKinds, row: Any) -> bytes | None:
    if row.body:
        return bytes(row.body)
    make = kinds.of(row.destination_id).event_body
    made = None if make is None else make(row)
    return None if made is None else made.encode()
