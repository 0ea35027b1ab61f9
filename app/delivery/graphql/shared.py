"""GraphQL that the kinds of destinations share: their filters, and deliveries without their bodies."""

from typing import Any, Final, cast

import strawberry
from sqlalchemy import select
from sqlalchemy.orm import defer
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.core.errors import Refusals, not_found
from app.core.ids import is_id
from app.core.validation import Rule
from app.db.database import run_script
from app.delivery.metadata import METADATA
from app.delivery.queue import filters, models
from app.graphql.scalars import Metadata

MOST_REFUSALS: Final = 100
# The parts of a filter that name objects, by the keys that they are stored under; the prefixes of their ids.
_SUBJECTS: Final = {
    "customerIds": ("customer_ids", "cus", "customer"),
    "meterIds": ("meter_ids", "mtr", "meter"),
}
# Bodies may be long, and no list needs them.
WITHOUT_BODIES = tuple(
    defer(cast(Any, one), raiseload=True) for one in (models.Delivery.body, models.Delivery.test_event)
)


@strawberry.type
class DestinationFilter:
    """OR within a list, AND across. customerIds and meterIds match the event's own record; metadata, that its
    customer or one of its meters has all of these pairs when the event is turned into deliveries."""

    customer_ids: list[strawberry.ID] | None
    """Ids of customers, one of whom the event must be about; null: any."""
    meter_ids: list[strawberry.ID] | None
    """Ids of meters, one of which the event must be about; null: any."""
    metadata: Metadata | None
    """Keys and values, all of which the customer or one of the meters must have; null: any."""

    @classmethod
    def of(cls, stored: dict[str, Any] | None) -> "DestinationFilter | None":
        if stored is None:
            return None
        return cls(**{part: stored.get(name) for part, name in filters.PARTS.items()})


@strawberry.input
class DestinationFilterInput:
    """OR within a list, AND across. customerIds and meterIds match the event's own record; metadata, that its
    customer or one of its meters has all of these pairs when the event is turned into deliveries."""

    customer_ids: list[strawberry.ID] | None = None
    """1 to 1,000 ids of customers, one of whom the event must be about; null: any."""
    meter_ids: list[strawberry.ID] | None = None
    """1 to 1,000 ids of meters, one of which the event must be about; null: any."""
    metadata: Metadata | None = None
    """Keys and values, all of which the customer or one of the meters must have; null: any."""


def stored_filter(given: DestinationFilterInput | None) -> dict[str, Any] | None:
    """The filter as it is stored; None takes every event. Raises what `filters.checked_filter` raises."""
    if given is None:
        return None
    return filters.checked_filter({part: getattr(given, part) for part in filters.PARTS})


async def filter_rule(
    session: AsyncSession, actor: Actor, input: Any, model: Any, destination_id: str | None = None
) -> Rule:
    """The rule that gives an input's `filter` as it is stored.

    It raises what `stored_filter` raises, and NOT_FOUND for each customer and meter that does not exist. A
    customer or meter that the filter of the model's row `destination_id` names already may be deleted by now.
    """
    asked = {name: list(map(str, _ids(input.filter, part))) for name, (part, _, _) in _SUBJECTS.items()}
    # Longer lists are refused by their length.
    ids = {one for some in asked.values() for one in some[: filters.MAX_IDS]}
    existing = await run_script(session, METADATA.of(actor.account_id, ids)) if ids else {}
    kept = await _filter_of(session, actor, model, destination_id) if ids and destination_id else None

    def checked(given: DestinationFilterInput | None) -> dict[str, Any] | None:
        stored, missing = stored_filter(given), []
        for name, (_, prefix, noun) in _SUBJECTS.items():
            known = frozenset((kept or {}).get(name, ()))
            for index, one in enumerate(asked[name]):
                if one not in known and not (one in existing and is_id(one, prefix)):
                    missing.append(not_found(noun, "filter", name, str(index)))
        if missing:
            raise Refusals(missing[:MOST_REFUSALS])
        return stored

    return checked


async def _filter_of(
    session: AsyncSession, actor: Actor, model: Any, destination_id: str
) -> filters.Filter | None:
    statement = visible(select(model).where(model.id == destination_id), actor)
    found: filters.Filter | None = (
        await session.execute(statement.with_only_columns(model.filter))
    ).scalar_one_or_none()
    return found


def _ids(given: DestinationFilterInput | None, part: str) -> list[strawberry.ID]:
    return getattr(given, part) or [] if given else []
