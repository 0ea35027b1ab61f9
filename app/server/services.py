"""The services of a process, put together from its settings."""

from app.core.crypto import Keyring
from app.core.settings import Settings
from app.db.database import Database
from app.delivery.destinations.email.subscriptions import has_unsubscribed
from app.delivery.destinations.kinds import KINDS
from app.delivery.queue.kinds import DestinationKinds
from app.feeds.credentials import SourceKinds, Sources
from app.feeds.kinds import SOURCE_KINDS
from app.graphql.context import Services
from app.outbound.http.transport import Transport
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.suppressions import SuppressionList


def services_of(
    settings: Settings,
    public_url: str,
    kinds: DestinationKinds = KINDS,
    source_kinds: SourceKinds = SOURCE_KINDS,
) -> Services:
    """Services over the settings' database, which nothing connects to before it is used.

    `kinds` are those of destinations, `source_kinds` those of feeds.
    """
    keyring = Keyring(settings.secret_keys)
    links = MailLinks(keyring, public_url, SuppressionList(keyring, has_unsubscribed))
    sources = Sources(source_kinds, keyring, Transport(settings.feed_allow_networks))
    return Services(settings, Database(settings.database), keyring, links, kinds, sources)
