"""Endpoint health: since when an endpoint has failed everything, its pauses, its disabling and the notices about it.

One statement a batch updates all endpoints that change, locked in the order of their ids and before their deliveries,
as everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Row, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.sql import Sql, rows
from app.db.types import UtcDateTime, database_now
from app.delivery.destinations.webhook import endpoints, notices
from app.delivery.destinations.webhook.events import WebhookEndpointDisabled
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.attempt_store import AttemptResult
from app.events import log as event_log
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.rendering import count, uk_time
from app.outbound.retry import DISABLED_AFTER, Fate

TOLD_AT_MOST_EVERY = timedelta(days=1)
"""An endpoint that fails now and then, or is enabled again and again, causes no mail each time."""

# An endpoint that was given another URL meanwhile is not judged by the answers of the old one.
_UPDATE = Sql(
    """
    UPDATE webhook_endpoints SET
        failing_since = CASE WHEN given.succeeded = 1 THEN NULL
            ELSE COALESCE(webhook_endpoints.failing_since, @now) END,
        failures = CASE WHEN given.succeeded = 1 THEN 0 ELSE webhook_endpoints.failures + given.failures END,
        paused_until = CASE WHEN given.pause IS NULL OR webhook_endpoints.paused_until > @later(given.pause)
            THEN webhook_endpoints.paused_until ELSE @later(given.pause) END
    FROM (
        SELECT given.* FROM @rows(id text, url text, failures bigint, succeeded bigint, pause float8)
        JOIN webhook_endpoints AS held ON held.id = given.id AND held.url = given.url AND held.status = 'ENABLED'
        ORDER BY held.id @lock(held)
    ) AS given
    WHERE webhook_endpoints.id = given.id
    RETURNING webhook_endpoints.id, webhook_endpoints.account_id, webhook_endpoints.url,
        webhook_endpoints.failing_since, webhook_endpoints.failures, webhook_endpoints.told_failing_at,
        webhook_endpoints.told_disabled_at, @now AS now
    """,
    {
        "failing_since": UtcDateTime(),
        "told_failing_at": UtcDateTime(),
        "told_disabled_at": UtcDateTime(),
        "now": UtcDateTime(),
    },
)

log = structlog.get_logger(__name__)


@dataclass
class _Change:
    """The results of one batch for one endpoint."""

    url: str
    failures: int = 0
    succeeded: bool = False
    pause: float | None = None
    # The last failure in words; the reason if the endpoint itself is gone; whether a delivery was given up.
    error: str | None = None
    gone: str | None = None
    exhausted: bool = False

    def add(self, result: AttemptResult, pause: float | None) -> None:
        verdict = result.verdict
        if pause is not None:
            self.pause = max(pause, self.pause or 0.0)
        if verdict.fate is Fate.SUCCEEDED:
            self.succeeded = True
            return
        self.failures += 1
        self.error = verdict.reason
        self.exhausted |= verdict.fate is Fate.EXHAUSTED
        if verdict.disable:
            self.gone = verdict.reason or "The receiver said that it is gone."


async def update_health(
    session: AsyncSession,
    links: MailLinks,
    results: Sequence[AttemptResult],
    pause_after: Callable[[AttemptResult], float | None],
) -> None:
    """Count what failed, pause and disable endpoints, append the events of that, and queue the mails about it."""
    changes: dict[str, _Change] = {}
    for result in results:
        claim = result.claim
        change = changes.get(claim.destination_id)
        if change is None:
            change = changes[claim.destination_id] = _Change(claim.target.url)
        change.add(result, pause_after(result))
    recovered = await _failing(session, [key for key, one in changes.items() if one.succeeded])
    given = [
        {
            "id": key,
            "url": one.url,
            "failures": one.failures,
            "succeeded": int(one.succeeded),
            "pause": one.pause,
        }
        for key, one in changes.items()
        if not one.succeeded or key in recovered or one.pause is not None or one.gone is not None
    ]
    if not given:
        return
    updated = (await session.execute(_UPDATE.on(session), {"rows": rows(given)})).all()
    for endpoint in sorted(updated, key=lambda row: str(row.id)):
        await _disable_or_tell(session, links, endpoint, changes[endpoint.id])


async def _failing(session: AsyncSession, endpoint_ids: Sequence[str]) -> set[str]:
    """The endpoints whose last attempts failed."""
    if not endpoint_ids:
        return set()
    statement = select(col(WebhookEndpoint.id)).where(
        col(WebhookEndpoint.id).in_(endpoint_ids), col(WebhookEndpoint.failing_since).is_not(None)
    )
    return set((await session.execute(statement)).scalars())


async def _disable_or_tell(
    session: AsyncSession, links: MailLinks, endpoint: Row[Any], change: _Change
) -> None:
    reason = change.gone or _overdue(endpoint, change)
    if reason is not None:
        await endpoints.disable(session, await session.get_one(WebhookEndpoint, endpoint.id), reason)
        event = WebhookEndpointDisabled(webhook_endpoint_id=endpoint.id, reason=reason)
        event_log.append(session, endpoint.account_id, event)
        log.info("webhook_endpoint_disabled", endpoint_id=endpoint.id, account_id=endpoint.account_id)
        if not _was_told(endpoint.told_disabled_at, endpoint.now):
            await notices.tell_disabled(session, links, endpoint, reason)
            await _set(session, endpoint, told_disabled_at=database_now())
    elif change.exhausted and not change.succeeded and not _was_told_of_failures(endpoint):
        await notices.tell_failing(session, links, endpoint, change.error)
        await _set(session, endpoint, told_failing_at=database_now())


def _overdue(endpoint: Row[Any], change: _Change) -> str | None:
    """The reason to disable the endpoint now, if it has failed everything for too long."""
    since = endpoint.failing_since
    if since is None or endpoint.now - since < timedelta(seconds=DISABLED_AFTER):
        return None
    attempts = count(endpoint.failures, "attempt")
    last = f" The last one: {change.error}" if change.error else ""
    return f"Nothing has arrived since {uk_time(since)}: {attempts} in a row failed.{last}"


def _was_told(told_at: datetime | None, now: datetime) -> bool:
    """Whether a notice of this kind went out within the day, even if the endpoint was enabled since."""
    return told_at is not None and now - told_at < TOLD_AT_MOST_EVERY


def _was_told_of_failures(endpoint: Row[Any]) -> bool:
    told_at = endpoint.told_failing_at
    is_known = told_at is not None and told_at >= endpoint.failing_since
    return bool(is_known or _was_told(told_at, endpoint.now))


async def _set(session: AsyncSession, endpoint: Row[Any], **values: Any) -> None:
    await session.execute(
        update(WebhookEndpoint).where(col(WebhookEndpoint.id) == endpoint.id).values(**values),
        execution_options={"synchronize_session": False},
    )
