"""Finds the groups that take an event, at a cost that grows with the matches and not with the subscribers."""

from collections.abc import Iterator

from app.events.log import Appended
from app.events.record_filter import RecordFilter
from app.live.group import Group

# An event type and the id of a meter or a customer; None in either place stands for any.
Key = tuple[str | None, str | None]


class GroupIndex:
    """Groups by their filters.

    A group whose filter names meters stands under each of them. One whose filter names customers, or whose viewer is
    bound to one, stands under each of those, any other under "any"; and each of these once per event type that the
    filter names. The groups found must still check their filters, which can name meters and customers at once.
    """

    def __init__(self) -> None:
        self._groups: dict[Key, dict[Group, None]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: Group) -> None:
        for key in _keys(group.filter, group.actor.customer_id):
            self._groups.setdefault(key, {})[group] = None

    def remove(self, group: Group) -> None:
        for key in _keys(group.filter, group.actor.customer_id):
            groups = self._groups.get(key)
            if groups is not None:
                groups.pop(group, None)
                if not groups:
                    del self._groups[key]

    def find(self, event: Appended) -> list[Group]:
        """The groups that take the event, each once."""
        found: dict[Group, None] = {}
        type_, customer_id = event.record.type, event.record.customer_id
        about = [None, *event.meter_ids] if customer_id is None else [None, customer_id, *event.meter_ids]
        for identifier in about:
            for key in ((type_, identifier), (None, identifier)):
                if key in self._groups:
                    found.update(self._groups[key])
        return [group for group in found if group.takes(event)]


def _keys(wanted: RecordFilter, bound_to: str | None) -> Iterator[Key]:
    types: list[str | None] = [None] if wanted.types is None else list(wanted.types)
    about: list[str | None] = [None]
    if wanted.meter_ids is not None:
        about = list(wanted.meter_ids)
    elif bound_to is not None:
        about = [bound_to]
    elif wanted.customer_ids is not None:
        about = list(wanted.customer_ids)
    return ((type_, identifier) for type_ in types for identifier in about)
