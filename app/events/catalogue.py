"""The catalogue of events.

A feature declares its events in its `events.py` as frozen `EventData` classes. The class is the one source of the
event's name, wording, JSON Schema, example, recorded `data` and of what is personal in it; webhooks, mails, filters,
the start page, `voltwire trigger` and the demo read it from here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

from app.core.clock import format_utc

Instant = Annotated[datetime, PlainSerializer(format_utc, return_type=str, when_used="json")]
REDACTED: Final = "[deleted]"
LAST: Final = 1_000


class Data(BaseModel):
    """Values in events, as JSON with camel-case keys."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    @classmethod
    def of_row(cls, row: Any, **others: Any) -> Self:
        """The values of a row: a field that is not among `others` is the row's attribute of its name."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields if name not in others}, **others)


class EventData(Data):
    """The data of one kind of event.

    A subclass declares its `type`, wording and example, and finds what the event is about. `personal` maps the paths
    of personal values ("customer.name") to their replacements once the customer is deleted, `notes` the paths of the
    account's own notes to their replacements for a viewer bound to one customer.
    """

    type: ClassVar[str]
    """The dotted name, such as `meter.created`."""
    words: ClassVar[str]
    """A few words for people who know no dotted names."""
    summary: ClassVar[str]
    """Half a sentence: "a meter was created"."""
    description: ClassVar[str]
    """A sentence that says when it happens, and what its data is."""
    example: ClassVar[dict[str, Any]]
    place: ClassVar[int] = LAST
    """The place in the catalogue; events with the same place stand in the order of their types."""
    personal: ClassVar[dict[str, Any]] = {}
    notes: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type" in cls.__dict__:
            if cls.type in _classes:
                raise ValueError(f"Two events are called {cls.type}: give one of them another type.")
            _classes[cls.type] = cls

    def subject_id(self) -> str:
        """The id of the object the event is about."""
        raise NotImplementedError

    def about_customer(self) -> str | None:
        return None

    def about_meters(self) -> Sequence[str]:
        return ()

    def data(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def constant(cls) -> str:
        """The type as a constant: `METER_CREATED` of `meter.created`."""
        return cls.type.replace(".", "_").upper()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of `data`, with the event's type as its title."""
        schema = cls.model_json_schema(by_alias=True, mode="serialization")
        return {**schema, "title": cls.type, "description": cls.description}

    @classmethod
    def redacted(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The data without what is personal in it; ids stay."""
        return _replaced(data, cls.personal)

    @classmethod
    def without_notes(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The data as a viewer bound to one customer is shown it."""
        return _replaced(data, cls.notes) if cls.notes else data


def _replaced(data: dict[str, Any], replacements: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(data)
    for path, replacement in replacements.items():
        head, _, rest = path.partition(".")
        if rest and isinstance(result.get(head), dict):
            result[head] = {**result[head], rest: replacement}
        elif head in result and not rest:
            result[head] = replacement
    return result


_classes: dict[str, type[EventData]] = {}


def catalogue() -> list[type[EventData]]:
    """The declared event classes in their order."""
    return sorted(_classes.values(), key=lambda event: (event.place, event.type))


def event_names() -> list[str]:
    """The dotted names of all events in their order."""
    return [event.type for event in catalogue()]


def event_class(name: str) -> type[EventData]:
    """The class of a dotted name."""
    return _classes[name]
