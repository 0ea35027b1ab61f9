"""Credentials of feeds: encrypted at rest, never shown, and opened only to ask a source."""

from collections.abc import Mapping
from typing import Final

import httpx
import orjson
import structlog

from app.core.crypto import Keyring
from app.core.lru import WeightedLru
from app.feeds.check_limits import Checks
from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.models import Feed
from app.feeds.source import Source, SourceKind
from app.outbound.unreadable_secrets import UnreadableSecrets

SourceKinds = Mapping[FeedKind, SourceKind]
"""The kinds of sources that a process knows."""

BASE_URL: Final = "baseUrl"
"""The setting of every kind that points a feed at another host."""
BUCKETS_KEPT, BUCKET_WEIGHT = 10_000, 400
"""Token buckets that are kept, and the bytes of each, as measured."""

_KEY: Final = "feed credential"


def sealed(keyring: Keyring, credentials: Mapping[str, str]) -> str:
    """The credentials as they are stored."""
    return keyring.encrypt(orjson.dumps(dict(credentials)).decode())


def opened(keyring: Keyring, stored: str) -> dict[str, str]:
    """The credentials of their stored form. Raises ValueError when none of the keys decrypts it."""
    found: dict[str, str] = orjson.loads(keyring.decrypt(stored))
    return found


def credential_keys(
    keyring: Keyring, kind: FeedKind, base_url: str, credentials: Mapping[str, str]
) -> list[str]:
    """The names, by each key of the deployment, that feeds with equal credentials at one source share.

    They are keyed hashes, which tell nothing of the credentials.
    """
    message = orjson.dumps([kind.name, base_url, sorted(credentials.items())])
    return [one.hex() for one in keyring.signatures(_KEY, message)]


def credential_key(keyring: Keyring, kind: FeedKind, base_url: str, credentials: Mapping[str, str]) -> str:
    """The name by the deployment's present key."""
    return credential_keys(keyring, kind, base_url, credentials)[0]


class Sources:
    """Opens the sources of feeds, over one transport that guards addresses. One per process.

    Requests with equal credentials are spaced by one token bucket.
    """

    def __init__(self, kinds: SourceKinds, keyring: Keyring, transport: httpx.AsyncBaseTransport) -> None:
        self.kinds = kinds
        self.checks = Checks()
        self._keyring = keyring
        self._transport = transport
        self._buckets: WeightedLru[str, TokenBucket] = WeightedLru(BUCKETS_KEPT, BUCKETS_KEPT * BUCKET_WEIGHT)
        self._unreadable = UnreadableSecrets(structlog.get_logger(__name__))

    def open(self, feed: Feed) -> Source:
        """The source of a feed. Raises SourceFailure where a person or an operator has to do something first."""
        kind = self.kinds.get(FeedKind[feed.kind])
        if kind is None:
            raise SourceFailure(
                Meaning.FEED, f"This server has no sources of the kind {feed.kind}: ask its operator."
            )
        try:
            credentials = opened(self._keyring, feed.credentials_encrypted)
        except ValueError:
            self._unreadable.tell(feed.credentials_encrypted, "credentials of a feed", feed_id=feed.id)
            raise SourceFailure(
                Meaning.FEED, "The credentials cannot be read any more: send them again with updateFeed."
            ) from None
        base_url = feed.settings.get(BASE_URL, kind.base_url)
        bucket = self._bucket(feed, kind)
        exchange = Exchange(self._transport, base_url, bucket, secrets=credentials.values())
        return kind.open(credentials, feed.settings, exchange)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._transport.aclose()

    def _bucket(self, feed: Feed, kind: SourceKind) -> TokenBucket:
        bucket = self._buckets.get(feed.credential_key)
        if bucket is None:
            bucket = TokenBucket(kind.requests_a_minute, kind.burst)
            self._buckets.put(feed.credential_key, bucket, BUCKET_WEIGHT)
        return bucket
