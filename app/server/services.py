"""The services of a process, put together from its settings."""

from app.core.crypto import Keyring
from app.core.settings import Settings
from app.db.database import Database
from app.delivery.destinations.email.subscriptions import has_unsubscribed
from app.delivery.destinations.kinds import KINDS
from app.delivery.queue.kinds import DestinationKinds
from app.graphql.context import Services
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.suppressions import SuppressionList


def services_of(settings: Settings, public_url: str, kinds: DestinationKinds = KINDS) -> Services:
    """Services over the settings' database, which nothing connects to before it is used."""
    keyring = Keyring(settings.secret_keys)
    links = MailLinks(keyring, public_url, SuppressionList(keyring, has_unsubscribed))
    return Services(settings, Database(settings.database), keyring, links, kinds)
