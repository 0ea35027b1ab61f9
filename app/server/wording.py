"""The wording of every mail about an event, put together from the features and the kinds of destinations."""

from typing import Final

from app.accounts import emails as accounts
from app.consents import emails as consents
from app.customers import emails as customers
from app.delivery.destinations.email.mails import Wordings
from app.delivery.destinations.webhook import emails as webhooks
from app.feeds import emails as feeds
from app.imports import emails as imports
from app.meters import emails as meters
from app.readings import emails as readings

WORDING: Final[Wordings] = {
    **accounts.WORDING,
    **customers.WORDING,
    **meters.WORDING,
    **consents.WORDING,
    **readings.WORDING,
    **imports.WORDING,
    **webhooks.WORDING,
    **feeds.WORDING,
}
