"""Filters on what the log recorded. Each field's condition is said here, for the API's pages and for subscriptions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, exists
from sqlmodel import col

from app.events.models import EventMeter, EventRecord


def _names_meter_in(meter_ids: Any) -> ColumnElement[bool]:
    return exists().where(
        col(EventMeter.account_id) == EventRecord.account_id,
        col(EventMeter.sequence) == EventRecord.sequence,
        col(EventMeter.meter_id).in_(meter_ids),
    )


CONDITIONS: Final[Mapping[str, Callable[[Any], ColumnElement[bool]]]] = {
    "types": col(EventRecord.type).in_,
    "meter_ids": _names_meter_in,
    "customer_ids": col(EventRecord.customer_id).in_,
}
"""The condition of each field over `EventRecord`, as a function of the field's values."""


@dataclass(frozen=True)
class RecordFilter:
    """OR within a list, AND across; an empty list matches nothing, None everything."""

    types: frozenset[str] | None = None
    meter_ids: frozenset[str] | None = None
    customer_ids: frozenset[str] | None = None

    def takes(self, record: EventRecord, meter_ids: Sequence[str]) -> bool:
        """Whether the filter takes this event, which names these meters."""
        return (
            (self.types is None or record.type in self.types)
            and (self.customer_ids is None or record.customer_id in self.customer_ids)
            and (self.meter_ids is None or not self.meter_ids.isdisjoint(meter_ids))
        )

    def narrow(self, statement: Select[Any]) -> Select[Any]:
        """Narrows a statement over `EventRecord`."""
        for name, condition in CONDITIONS.items():
            wanted = getattr(self, name)
            if wanted is not None:
                statement = statement.where(condition(wanted))
        return statement
