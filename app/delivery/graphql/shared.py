"""GraphQL that the kinds of destinations share: their filters, and deliveries without their bodies."""

from typing import Any, cast

import strawberry
from sqlalchemy.orm import defer

from app.delivery.queue import filters, models
from app.graphql.scalars import Metadata

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
