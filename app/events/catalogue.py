"""The catalogue of event types.

A feature declares its events in its `events.py` as frozen `EventData` classes; the class is the one source of the
event's name, description, JSON Schema, example, recorded `data` and of what is personal in it.
"""

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel

from app.core.clock import format_utc

Instant = Annotated[datetime, PlainSerializer(format_utc, return_type=str, when_used="json")]
REDACTED = "[deleted]"


class EventType(enum.Enum):
    """The kinds of events; each has a dotted name as well."""

    METER_DATA_RECEIVED = "meter_data.received"
    """meter_data.received: readings of a meter were recorded or changed."""
    METER_CREATED = "meter.created"
    """meter.created: a meter was created, by itself or by a consent."""
    USER_CREATED = "user.created"
    """user.created: a user was created."""
    CUSTOMER_CREATED = "customer.created"
    """customer.created: a customer was created."""
    API_KEYS_ROTATED = "api_keys.rotated"
    """api_keys.rotated: an API key got a new secret."""
    HOSTED_CONSENT_APPROVED = "hosted_consent.approved"
    """hosted_consent.approved: a consent was given."""
    HOSTED_CONSENT_REVOKED = "hosted_consent.revoked"
    """hosted_consent.revoked: a consent was revoked."""


class EventData(BaseModel):
    """What an event records; `data()` is its JSON with camel-case keys.

    A subclass names its type, also in words, describes it for the catalogue, gives an example, and says what the event
    is about. `personal` maps the paths of personal values ("customer.name") to what replaces them when the customer is
    deleted, `notes` those of what the account notes for itself to what a viewer bound to one customer is shown.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    type: ClassVar[EventType]
    # A few words for people who know no dotted names.
    words: ClassVar[str]
    description: ClassVar[str]
    example: ClassVar[dict[str, Any]]
    personal: ClassVar[dict[str, Any]] = {}
    notes: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type" in cls.__dict__:
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
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of `data`, with the type's name as its title."""
        schema = cls.model_json_schema(by_alias=True, mode="serialization")
        return {**schema, "title": cls.type.value, "description": cls.description}

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


_classes: dict[EventType, type[EventData]] = {}


def catalogue() -> list[type[EventData]]:
    """The declared event classes in the order of `EventType`."""
    return [_classes[kind] for kind in EventType if kind in _classes]


def event_class(name: str) -> type[EventData]:
    """The class of a dotted name."""
    return _classes[EventType(name)]
