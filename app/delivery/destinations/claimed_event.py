"""The event of a delivery that was read by a textual statement."""

from typing import Any

import orjson
from sqlalchemy import Row

from app.delivery.queue.leases import PickedDelivery
from app.events.models import EventRecord


def event_of(row: PickedDelivery | Row[Any]) -> EventRecord:
    """The delivery's event, which must still be in the log."""
    return EventRecord(
        account_id=row.account_id,
        sequence=row.event_sequence,
        id=row.event_id,
        type=row.event_type,
        occurred_at=row.occurred_at,
        subject_id=row.subject_id,
        customer_id=row.customer_id,
        data=json_value(row.data),
    )


def json_value(column: Any) -> Any:
    """The value of a JSON column, which one of the drivers gives as text."""
    return orjson.loads(column) if isinstance(column, str | bytes) else column
