"""The provider of webhooks: signed POSTs to endpoints, and the consequences of an answer for the endpoint itself."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from sqlalchemy import select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.lru import memoized
from app.db.types import database_now
from app.delivery.destinations.webhook import health
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.destinations.webhook.payload import attempt_headers, event_json, shown_headers
from app.delivery.destinations.webhook.payload_selection import PayloadSelection
from app.delivery.queue.attempt_store import AttemptResult, body_digest
from app.delivery.queue.leases import Claim, PickedDelivery
from app.delivery.queue.provider import LATER, Provider
from app.outbound.attempt import Attempt
from app.outbound.http.transport import Transport
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.retry import Fate
from app.outbound.unreadable_secrets import UnreadableSecrets

MOST_IN_FLIGHT = 400
MOST_PER_ENDPOINT = 20
STAMPS_KEPT, STAMP_WEIGHT = 10_000, 200
SECRETS_KEPT, SECRET_WEIGHT = 8_000_000, 400
"""Bytes of decrypted secrets that are remembered, and of each beside its text, as measured."""
STAMP_SECONDS = 1.0
"""How exact an endpoint's last success is: it is not written for every batch of a busy one."""

UNREADABLE_SIGNATURE = (
    "Nothing was sent: the endpoint's secret cannot be decrypted. Rotate it, or ask the operator."
)
UNREADABLE_HEADERS = (
    "Nothing was sent: the endpoint's headers cannot be decrypted. Set them anew, or ask the operator."
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointTarget:
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
    # The reason why nothing can be sent to it, in words for the account's users.
    fault: str | None = None


class WebhookProvider(Provider):
    """The queue's provider for webhook endpoints."""

    most_in_flight = MOST_IN_FLIGHT
    most_each = MOST_PER_ENDPOINT

    def __init__(
        self, links: MailLinks, transport: Transport, timeout: float, selection: PayloadSelection
    ) -> None:
        self.timeout = timeout
        self._selection = selection
        self._links = links
        self._transport = transport
        # Unlocking a secret costs more than the signature made with it.
        self._unlock = memoized(SECRETS_KEPT, SECRET_WEIGHT)(links.keyring.decrypt)
        self._unreadable = UnreadableSecrets(log)
        self._stamped: dict[str, float] = {}

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> dict[str, EndpointTarget]:
        statement = select(WebhookEndpoint, database_now()).where(
            col(WebhookEndpoint.id).in_(ids), col(WebhookEndpoint.status) == EndpointStatus.ENABLED.value
        )
        return {one.id: self._target(one, now) for one, now in (await session.execute(statement)).all()}

    async def body(self, session: AsyncSession, row: PickedDelivery, target: EndpointTarget) -> str | None:
        """The body for a picked delivery; None if its event is gone, `LATER` if it is for a selection.

        A delivery whose first attempt was before the endpoint had a selection stays as it was then.
        """
        if target.selection is not None and row.body is None:
            is_gone = row.event_sequence is not None and row.occurred_at is None
            return None if is_gone else LATER
        return event_json(row)

    async def bodies(
        self, rows: Sequence[PickedDelivery], targets: Mapping[str, EndpointTarget]
    ) -> Mapping[str, str]:
        """The results of the endpoints' selections on the events."""
        return await self._selection.bodies(
            [(row, targets[row.destination_id].selection or "") for row in rows]
        )

    async def send(self, claim: Claim) -> Attempt:
        target: EndpointTarget = claim.target
        if target.fault is not None:
            return Attempt.not_made(target.fault)
        ours = attempt_headers(claim, target.secrets, target.private_keys, int(time.time()))
        headers = {**target.headers, **ours}
        attempt = await self._transport.post(target.url, headers, claim.body, self.timeout)
        attempt.request_headers = shown_headers(target.headers, ours)
        attempt.request_digest = body_digest(claim.body)
        return attempt

    async def update_destinations(self, session: AsyncSession, results: Sequence[AttemptResult]) -> None:
        """Count failures, pause and disable endpoints."""
        await health.update_health(session, self._links, results, self.pause_after)

    async def note_successes(self, session: AsyncSession, results: Sequence[AttemptResult]) -> None:
        """Stamp the endpoints with the time of their last success."""
        now = time.monotonic()
        succeeded = {
            result.claim.destination_id for result in results if result.verdict.fate is Fate.SUCCEEDED
        }
        due = sorted(
            one for one in succeeded if now - self._stamped.get(one, -STAMP_SECONDS) >= STAMP_SECONDS
        )
        if not due:
            return
        # A transaction with an endpoint's lock may wait for ours: passed over, it is stamped with the next batch.
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

    def _target(self, endpoint: WebhookEndpoint, now: Any) -> EndpointTarget:
        paused = 0.0
        if endpoint.paused_until is not None:
            paused = max(paused, (endpoint.paused_until - now).total_seconds())
        secrets, private_keys = self._signing(endpoint)
        # One log line is enough for all of its secrets, which were encrypted with one key.
        headers = self._headers(endpoint) if secrets else {}
        fault = UNREADABLE_HEADERS if headers is None else None
        return EndpointTarget(
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
        """The secrets and the private keys that sign now; none where the current one cannot be decrypted."""
        secret = self._read(endpoint, "secret", endpoint.secret_encrypted)
        key = None if secret is None else self._read(endpoint, "signing key", endpoint.signing_key_encrypted)
        if secret is None or key is None:
            return (), ()
        until = endpoint.previous_secret_until
        if until is None or until <= clock.now():
            return (secret,), (key,)
        # A secret is also rotated because it cannot be decrypted: then the new one signs alone.
        before = self._read(endpoint, "previous secret", endpoint.previous_secret_encrypted)
        key_before = self._read(endpoint, "previous signing key", endpoint.previous_signing_key_encrypted)
        return tuple(filter(None, (secret, before))), tuple(filter(None, (key, key_before)))

    def _headers(self, endpoint: WebhookEndpoint) -> Mapping[str, str] | None:
        """The account's own headers; None if they cannot be decrypted."""
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
