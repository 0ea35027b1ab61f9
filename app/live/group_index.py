"""Finds the groups that an event may concern, at a cost that goes by the matches and not by the subscribers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.events.log import Appended, EventFilter

if TYPE_CHECKING:
    from app.live.group import Group

# Event type and the id of a meter or a customer; None in either place stands for any.
Place = tuple[str | None, str | None]


class Index:
    """Groups by what their filters ask for.

    A group that names meters lies under each of them, one that names customers (or whose viewer is bound to one) under
    each of those, any other under "any"; and each of these once per event type it names. Whoever is found still has to
    check the filter, which differs only where it names meters and customers at once.
    """

    def __init__(self) -> None:
        self._places: dict[Place, dict[Group, None]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, group: "Group") -> None:
        for place in _places(group.filter, group.actor.customer_id):
            self._places.setdefault(place, {})[group] = None

    def remove(self, group: "Group") -> None:
        for place in _places(group.filter, group.actor.customer_id):
            groups = self._places.get(place)
            if groups is not None:
                groups.pop(group, None)
                if not groups:
                    del self._places[place]

    def find(self, event: Appended) -> "list[Group]":
        """The groups that take the event, each once."""
        found: dict[Group, None] = {}
        kind, customer_id = event.record.type, event.record.customer_id
        about = [None, *event.meter_ids] if customer_id is None else [None, customer_id, *event.meter_ids]
        for identifier in about:
            for place in ((kind, identifier), (None, identifier)):
                if place in self._places:
                    found.update(self._places[place])
        return [group for group in found if group.takes(event)]


def _places(wanted: EventFilter, bound_to: str | None) -> Iterator[Place]:
    kinds: list[str | None] = [None] if wanted.types is None else [kind.value for kind in wanted.types]
    about: list[str | None] = [None]
    if wanted.meter_ids is not None:
        about = list(wanted.meter_ids)
    elif bound_to is not None:
        about = [bound_to]
    elif wanted.customer_ids is not None:
        about = list(wanted.customer_ids)
    return ((kind, identifier) for kind in kinds for identifier in about)
