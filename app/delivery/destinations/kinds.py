"""The kinds of destinations, in one registry: a new kind is a package and a name here."""

from typing import Final

from app.delivery.destinations.email.kind import EMAIL
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.queue.kinds import DestinationKinds

KINDS: Final = DestinationKinds(WEBHOOK, EMAIL)
