"""The catalogue of all features' events, each of which is declared when its module is imported.

They bring the database's models along, which takes most of a second: commands import this module on demand.
"""

import app.accounts.events
import app.consents.events
import app.customers.events
import app.meters.events
import app.readings.events
from app.events.catalogue import EventData, catalogue


def whole_catalogue() -> list[type[EventData]]:
    """The events of all features."""
    return catalogue()
