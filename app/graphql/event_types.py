"""The catalogue as a GraphQL enum.

`EventType` is for annotations. Strawberry imports this module when the schema is built, and only then: by then every
feature has declared its events.
"""

import enum
from typing import TYPE_CHECKING

import strawberry

from app.events.catalogue import catalogue

if TYPE_CHECKING:

    class EventType(enum.Enum):
        """The kinds of events; each has a dotted name as well."""

else:
    EventType = strawberry.enum(
        enum.Enum(
            "EventType",
            {
                event.constant(): strawberry.enum_value(
                    event.type, description=f"{event.type}: {event.summary}."
                )
                for event in catalogue()
            },
        ),
        description="The kinds of events; each has a dotted name as well.",
    )
