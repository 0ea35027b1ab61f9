"""Filters of destinations on events: by customer, by meter, by metadata of either.

A filter is stored as JSON: `{"customerIds": […], "meterIds": […], "metadata": {…}}`, each part only if it was given. OR
within a list, AND across. Customers and meters are those that the event recorded; their metadata is as it is when the
event is dispatched, and it fits if the customer or one of the meters has all of its pairs.

This room knows neither customers nor meters: callers pass a `MetadataLookup`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Select

from app.core.errors import ErrorCode, Refusal
from app.db.raw_statements import Script
from app.events import log
from app.events.record_filter import RecordFilter

MAX_IDS: Final = 1000
PARTS: Final = {"customer_ids": "customerIds", "meter_ids": "meterIds", "metadata": "metadata"}
"""The parts of a filter, each with the key that it is stored under."""

Filter = Mapping[str, Any]


class MetadataLookup(Protocol):
    """Finds the metadata of customers and meters."""

    def of(self, account_id: str, ids: Collection[str]) -> Script[Mapping[str, Mapping[str, str]]]:
        """The metadata of these customers and meters of the account, by id."""
        ...

    def carried(self, metadata: Mapping[str, str]) -> ColumnElement[bool]:
        """The condition, over `EventRecord`, that its customer or one of its meters has all of this metadata."""
        ...


def checked_filter(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The filter to be stored, of the `PARTS` that were given; None takes everything. Raises REQUIRED and TOO_LONG."""
    stored: dict[str, Any] = {}
    for part, name in PARTS.items():
        ids = given.get(part)
        if ids is None:
            continue
        if isinstance(ids, dict):
            # No pairs are no condition.
            stored |= {name: dict(ids)} if ids else {}
            continue
        if not ids:
            raise Refusal(
                ErrorCode.REQUIRED,
                f"An empty list matches no event: name at least one id, or leave {name} out.",
                "filter",
                name,
            )
        if len(ids) > MAX_IDS:
            raise Refusal(ErrorCode.TOO_LONG, f"{name} has at most {MAX_IDS} ids.", "filter", name)
        stored[name] = list(dict.fromkeys(map(str, ids)))
    return stored or None


def narrow(statement: Select[Any], filter: Filter | None, metadata: MetadataLookup) -> Select[Any]:
    """The events that the filter takes, as SQL over `EventRecord`."""
    if filter is None:
        return statement
    recorded = RecordFilter(customer_ids=_ids(filter, "customerIds"), meter_ids=_ids(filter, "meterIds"))
    statement = recorded.narrow(statement)
    if "metadata" in filter:
        statement = statement.where(metadata.carried(filter["metadata"]))
    return statement


@dataclass
class Subjects:
    """The meters of some events, by (account, sequence), and metadata by id, as far as filters need them."""

    meters: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def fit(self, filter: Filter | None, event: Any) -> bool:
        """Whether the filter takes the event, which has `account_id`, `sequence` and `customer_id`."""
        if filter is None:
            return True
        customers, meters = filter.get("customerIds"), filter.get("meterIds")
        if customers is not None and event.customer_id not in customers:
            return False
        named = self.meters.get((event.account_id, event.sequence), [])
        if meters is not None and not set(meters).intersection(named):
            return False
        wanted = filter.get("metadata")
        return wanted is None or any(
            wanted.items() <= self.labels.get(one, {}).items() for one in (event.customer_id, *named)
        )


def subjects(
    events: Sequence[Any], destinations: Mapping[str, Sequence[Any]], metadata: MetadataLookup
) -> Script[Subjects]:
    """Reads the subjects of these events, as far as the filters of these destinations, by account, need them."""
    found = Subjects()
    for account_id, some in destinations.items():
        asked = {part for one in some if one.filter is not None for part in one.filter}
        if asked.isdisjoint({"meterIds", "metadata"}):
            continue
        here = [event for event in events if event.account_id == account_id]
        named = yield from log.find_meters_named(account_id, [event.sequence for event in here])
        found.meters.update({(account_id, sequence): meters for sequence, meters in named.items()})
        if "metadata" in asked:
            ids = {event.customer_id for event in here if event.customer_id is not None}
            ids.update(*named.values())
            found.labels.update((yield from metadata.of(account_id, ids)))
    return found


def _ids(filter: Filter, name: str) -> frozenset[str] | None:
    return frozenset(filter[name]) if name in filter else None
