"""The webhook carrier: signed POSTs to endpoints, and what an answer means for the endpoint itself."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog
from sqlalchemy import Row, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.lru import memoized
from app.db.sql import Sql, rows
from app.db.types import database_now
from app.delivery.destinations.webhook import health
from app.delivery.destinations.webhook.payload import (
    attempt_headers,
    digest_of,
    event_json,
    shown_headers,
)
from app.delivery.destinations.webhook.payload_selection import Selected
from app.delivery.queue.attempt_store import Result
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import EndpointStatus, WebhookEndpoint
from app.delivery.queue.provider import LATER
from app.outbound.attempt import Attempt
from app.outbound.http.transport import Transport
from app.outbound.lease_times import queue_seconds
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.retry import Fate, parse_retry_after
from app.outbound.unreadable_secrets import UnreadableSecrets

MOST_IN_FLIGHT = 400
MOST_PER_ENDPOINT = 20
STAMPS_KEPT, STAMP_WEIGHT = 10_000, 200
SECRETS_KEPT, SECRET_WEIGHT = 8_000_000, 400
"""Bytes of what endpoints keep secret that is remembered unlocked, and of each beside its text, as measured."""
STAMP_SECONDS = 1.0
"""How exact an endpoint's last success is: it is not written for every batch of a busy one."""

UNREADABLE_SIGNATURE = (
    "Nothing was sent: the endpoint's secret cannot be decrypted. Rotate it, or ask the operator."
)
UNREADABLE_HEADERS = (
    "Nothing was sent: the endpoint's headers cannot be decrypted. Set them anew, or ask the operator."
)
LOOK_AGAIN_AFTER = 1.0
"""How soon to ask for an endpoint that another worker holds."""

LONGEST_PACE = 1.0
"""Seconds between two requests at the lowest rate."""

# Only one worker at a time can keep a rate; an order is kept by whoever claims, as it is seen in the deliveries. Locked
# in the order of the ids, as everywhere.
_HOLD = Sql("""
    UPDATE webhook_endpoints SET held_by = :worker_id, held_until = @later(:seconds)
    FROM (
        SELECT held.id FROM @rows(id text) JOIN webhook_endpoints AS held ON held.id = given.id
            AND (held.held_by IS NULL OR held.held_by = :worker_id OR held.held_until <= @now)
        ORDER BY held.id @lock(held)
    ) AS free
    WHERE webhook_endpoints.id = free.id
    RETURNING webhook_endpoints.id
""")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """An enabled endpoint as it was when the delivery was claimed."""

    id: str
    url: str
    secrets: tuple[str, ...]
    private_keys: tuple[str, ...]
    headers: Mapping[str, str]
    selection: str | None
    ordered: bool
    rate_limit: int | None
    paused_seconds: float
    # Why nothing can be sent to it, in words for the account's users.
    fault: str | None = None


class Webhooks:
    """Carries events to webhook endpoints."""

    prefix = "whe"
    most_in_flight = MOST_IN_FLIGHT
    most_each = MOST_PER_ENDPOINT
    keeps_bodies = False

    def __init__(
        self, links: MailLinks, transport: Transport, timeout: float, selected: Selected, worker_id: str
    ) -> None:
        self.timeout = timeout
        self._worker_id = worker_id
        self._selected = selected
        self._holds = False
        self._links = links
        self._transport = transport
        # Unlocking a secret costs more than the signature made with it.
        self._unlock = memoized(SECRETS_KEPT, SECRET_WEIGHT)(links.keyring.decrypt)
        self._unreadable = UnreadableSecrets(log)
        self._stamped: dict[str, float] = {}

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> dict[str, Target]:
        """Those of the endpoints that are enabled; what another worker holds is paused."""
        statement = select(WebhookEndpoint, database_now()).where(
            col(WebhookEndpoint.id).in_(ids), col(WebhookEndpoint.status) == EndpointStatus.ENABLED.value
        )
        found = (await session.execute(statement)).all()
        exclusive = [one.id for one, _ in found if one.rate_limit is not None]
        elsewhere = set(exclusive) - await self._hold(session, exclusive)
        return {one.id: self._target(one, now, one.id in elsewhere) for one, now in found}

    async def body(self, session: AsyncSession, row: Row[Any], target: Target) -> str | None:
        """The body for a picked delivery; None if its event is gone, `LATER` if it is for a selection.

        A delivery whose first attempt was before the endpoint had a selection stays as it was then.
        """
        if target.selection is not None and row.body is None:
            is_gone = row.event_sequence is not None and row.occurred_at is None
            return None if is_gone else LATER
        return event_json(row)

    async def bodies(self, rows: Sequence[Row[Any]], targets: Mapping[str, Target]) -> Mapping[str, str]:
        """What the endpoints' selections make of the events."""
        return await self._selected.bodies(
            [(row, targets[row.destination_id].selection or "") for row in rows]
        )

    async def send(self, claim: Claim) -> Attempt:
        """One attempt."""
        target: Target = claim.target
        if target.fault is not None:
            return Attempt.not_made(target.fault)
        ours = attempt_headers(claim, target.secrets, target.private_keys, int(time.time()))
        headers = {**target.headers, **ours}
        exchange = await self._transport.post(target.url, headers, claim.body, self.timeout)
        return replace(
            exchange,
            request_headers=shown_headers(target.headers, ours),
            request_digest=digest_of(claim.body),
        )

    def pause_after(self, result: Result) -> float | None:
        """For how many seconds the whole endpoint asks to be left alone."""
        if not result.verdict.slow_down:
            return None
        return parse_retry_after(result.exchange.retry_after, time.time())

    async def affect(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """Count failures, pause and disable endpoints; before their deliveries are written, as everyone locks."""
        await health.move(session, self._links, results, self.pause_after)

    async def leave(self, session: AsyncSession) -> None:
        """Let other workers send at once to the endpoints that only this one sent to."""
        if self._holds:
            mine = col(WebhookEndpoint.held_by) == self._worker_id
            await session.execute(update(WebhookEndpoint).where(mine).values(held_by=None, held_until=None))

    async def stamp(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """Note when the endpoints last took a delivery."""
        now = time.monotonic()
        succeeded = {
            result.claim.destination_id for result in results if result.verdict.fate is Fate.SUCCEEDED
        }
        due = sorted(
            one for one in succeeded if now - self._stamped.get(one, -STAMP_SECONDS) >= STAMP_SECONDS
        )
        if not due:
            return
        # Whoever holds an endpoint's lock may wait for ours: passed over, it is stamped with the next batch.
        free = (
            select(col(WebhookEndpoint.id))
            .where(col(WebhookEndpoint.id).in_(due))
            .with_for_update(skip_locked=True)
        )
        await session.execute(
            update(WebhookEndpoint)
            .where(col(WebhookEndpoint.id).in_(free))
            .values(last_success_at=database_now()),
            execution_options={"synchronize_session": False},
        )
        if len(self._stamped) > STAMPS_KEPT:
            self._stamped.clear()
        self._stamped.update(dict.fromkeys(due, now))

    async def _hold(self, session: AsyncSession, endpoint_ids: Sequence[str]) -> set[str]:
        """Those of the endpoints with a rate that are this worker's, for as long as it may begin what it claims now."""
        if not endpoint_ids:
            return set()
        self._holds = True
        values = {
            "rows": rows({"id": one} for one in endpoint_ids),
            "worker_id": self._worker_id,
            "seconds": queue_seconds(self.timeout) + LONGEST_PACE,
        }
        return set((await session.execute(_HOLD.on(session), values)).scalars())

    def _target(self, endpoint: WebhookEndpoint, now: Any, is_elsewhere: bool) -> Target:
        paused = LOOK_AGAIN_AFTER if is_elsewhere else 0.0
        if endpoint.paused_until is not None:
            paused = max(paused, (endpoint.paused_until - now).total_seconds())
        secrets, private_keys = self._signing(endpoint)
        # The log tells of one of its secrets: they were encrypted with one key.
        headers = self._headers(endpoint) if secrets else {}
        fault = UNREADABLE_HEADERS if headers is None else None
        return Target(
            id=endpoint.id,
            url=endpoint.url,
            secrets=secrets,
            private_keys=private_keys,
            headers=headers or {},
            selection=endpoint.selection,
            ordered=endpoint.ordered,
            rate_limit=endpoint.rate_limit,
            paused_seconds=paused,
            fault=fault if secrets else UNREADABLE_SIGNATURE,
        )

    def _signing(self, endpoint: WebhookEndpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The secrets and the private keys that sign now; none where the current one cannot be read."""
        secret = self._read(endpoint, "secret", endpoint.secret_encrypted)
        key = None if secret is None else self._read(endpoint, "signing key", endpoint.signing_key_encrypted)
        if secret is None or key is None:
            return (), ()
        until = endpoint.previous_secret_until
        if until is None or until <= clock.now():
            return (secret,), (key,)
        # A secret is rotated because the one before cannot be read, too: the new one signs alone then.
        before = self._read(endpoint, "previous secret", endpoint.previous_secret_encrypted)
        key_before = self._read(endpoint, "previous signing key", endpoint.previous_signing_key_encrypted)
        return tuple(filter(None, (secret, before))), tuple(filter(None, (key, key_before)))

    def _headers(self, endpoint: WebhookEndpoint) -> Mapping[str, str] | None:
        """The headers of its own; None if they cannot be read."""
        if endpoint.headers_encrypted is None:
            return {}
        headers = self._read(endpoint, "headers", endpoint.headers_encrypted)
        return None if headers is None else orjson.loads(headers)

    def _read(self, endpoint: WebhookEndpoint, what: str, encrypted: str | None) -> str | None:
        if encrypted is None:
            return None
        try:
            return self._unlock(encrypted)
        except ValueError:
            self._unreadable.tell(encrypted, what, endpoint_id=endpoint.id)
            return None
