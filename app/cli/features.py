"""The catalogue of all features' events, each of which is declared when its module is imported.

They bring the database's models along, which takes most of a second: commands import this module on demand.
"""

import app.accounts.events
import app.consents.events
import app.customers.events
import app.delivery.destinations.webhook.events
import app.feeds.events
import app.imports.events
import app.meters.events
import app.readings.events
from app.cli.client import ClientError
from app.events.catalogue import EventData, catalogue


def whole_catalogue() -> list[type[EventData]]:
    return catalogue()


def unknown_event(name: str, advice: str) -> ClientError:
    """The error for an event that does not exist, with its dotted name where it is spelled as in GraphQL."""
    for event in whole_catalogue():
        if event.constant() == name:
            advice = f"write {event.type}"
    return ClientError(f'There is no event "{name}": {advice}.')
