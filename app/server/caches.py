"""The most bytes that the caches of a process may take, from the bounds that stand beside each cache.

Where a cache bounds its number of entries, each counts with its measured bytes.
"""

from app.auth import authenticate, stream_tokens
from app.db import raw_statements, sqlite
from app.db.database import SQLITE_READERS
from app.db.engine import COMPILED_KEPT, COMPILED_WEIGHT
from app.delivery.destinations.webhook import provider, signing
from app.delivery.queue import scheduler
from app.feeds import credentials
from app.graphql import document_cache, nodes
from app.graphql.bounds import introspection
from app.graphql.http import addresses, rate_limiter, rates
from app.live import eviction_queue
from app.outbound import unreadable_secrets
from app.outbound.http import pool, ssrf_guard, transport


def bounds() -> dict[str, int]:
    """Bytes at most, by kind of content."""
    return {
        "documents": _documents(),
        "events": eviction_queue.MAX_BYTES,
        "database": _of_sqlite(),
        "statements": _statements(),
        "callers": _callers(),
        "destinations": _destinations(),
        "sources": _sources(),
    }


def _documents() -> int:
    """Parsed documents, their plans and templates, of accounts and of strangers, and answers to introspection."""
    sides = (document_cache.ACCOUNTS_BOUNDS, document_cache.STRANGERS_BOUNDS)
    limits = [
        limit for side in sides for _, limit in (side.operations, side.plans, side.persisted, side.templates)
    ]
    return sum(limits) + introspection.CACHE_BOUNDS[1]


def _of_sqlite() -> int:
    """SQLite's pages and prepared statements, of the writing connection and the reading ones."""
    readers = SQLITE_READERS + sqlite.AT_ONCE
    texts = (1 + readers) * sqlite.TEXTS_KEPT * sqlite.TEXT_WEIGHT
    return sqlite.WRITER_PAGES + readers * sqlite.READER_PAGES + texts


def _statements() -> int:
    """Statements that SQLAlchemy compiled for SQLite's two engines, statements for viewers, getters of list values."""
    return (
        2 * COMPILED_KEPT * COMPILED_WEIGHT
        + nodes.CACHED_STATEMENTS * nodes.STATEMENT_WEIGHT
        + raw_statements.PICKS_KEPT * raw_statements.PICK_WEIGHT
    )


def _callers() -> int:
    """Keys, rates and addresses."""
    return (
        authenticate.REMEMBERED_AT_MOST * authenticate.REMEMBERED_WEIGHT
        + authenticate.READS_AT_MOST * authenticate.READ_WEIGHT
        # Of accounts, of their tokens, and of tokens by customer.
        + (3 * rate_limiter.BUCKETS_KEPT + rates.ADDRESSES_KEPT) * rate_limiter.BUCKET_WEIGHT
        + addresses.NETWORKS_KEPT * addresses.NETWORK_WEIGHT
        + stream_tokens.MARKS_KEPT * stream_tokens.MARK_WEIGHT
    )


def _destinations() -> int:
    """A worker's data about endpoints and subscriptions: URLs, host names, secrets and delivery channels."""
    return (
        ssrf_guard.URLS_KEPT
        + transport.PARSED_KEPT
        + provider.SECRETS_KEPT
        + 2 * signing.KEYS_KEPT * signing.KEY_WEIGHT
        + provider.STAMPS_KEPT * provider.STAMP_WEIGHT
        + pool.MOST_NAMES * pool.NAME_WEIGHT
        # Webhooks and mails.
        + 2 * unreadable_secrets.REMEMBERED * unreadable_secrets.REMEMBERED_WEIGHT
        + 2 * scheduler.KEPT_QUEUES * scheduler.QUEUE_WEIGHT
    )


def _sources() -> int:
    """Data about the sources of feeds: URLs, host names, pace."""
    return (
        transport.PARSED_KEPT
        + pool.MOST_NAMES * pool.NAME_WEIGHT
        + unreadable_secrets.REMEMBERED * unreadable_secrets.REMEMBERED_WEIGHT
        + credentials.BUCKETS_KEPT * credentials.BUCKET_WEIGHT
    )
