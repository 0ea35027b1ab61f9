"""Verbs over webhook endpoints. They take a session and never commit."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson
from sqlalchemy import func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import FOR_UPDATE, Actor, load_visible, visible
from app.core import clock, rotation, validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.delivery.destinations.webhook import custom_headers
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.destinations.webhook.signing import new_key_pair, new_secret
from app.delivery.queue import leases, replays
from app.delivery.queue.cancellation import end_deliveries
from app.events import log
from app.events.event_type_filter import checked_event_types
from app.outbound.http.ssrf_guard import Networks, UrlRefused, check_url
from app.outbound.mail.mail_queue import forget_mails_about

PLAIN: Final = frozenset({"description", "event_types", "selection", "filter", "rate_limit"})
MAX_ENDPOINTS: Final = 100
MAX_RATE: Final = 1000
DISABLED_BY_ACCOUNT: Final = "Disabled by the account."


async def create(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    allow_networks: Networks,
    *,
    url: str,
    description: str | None = None,
    event_types: Sequence[str] | None = None,
    checks: Mapping[str, validation.Rule] = MappingProxyType({}),
    **options: Any,
) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint that gets the events from now on; gives it and its secret, which is shown only once.

    `options`: filter and selection (as `checked_filter` and `checked_selection` give them, or with `checks` that do
    it), headers, ordered, rate_limit. Raises URL_NOT_ALLOWED, TOO_LONG, OUT_OF_RANGE and the refusals of
    `checked_event_types` and `checked_headers`, all that apply at once; LIMIT_REACHED.
    """
    secret, (signing_key, public_key) = new_secret(), new_key_pair()
    given = {"url": url, "description": description, "event_types": event_types, **options}
    checked = validation.validate_changes({**_rules(allow_networks), **checks}, given)
    endpoint = WebhookEndpoint(
        account_id=actor.account_id,
        url=checked["url"],
        # Under the log's lock two creations count the endpoints one after the other.
        first_sequence=await log.lock_position(session, actor.account_id),
        secret_encrypted=keyring.encrypt(secret),
        signing_key_encrypted=keyring.encrypt(signing_key),
        public_key=public_key,
    )
    _set(endpoint, keyring, checked)
    await _require_room(session, actor)
    session.add(endpoint)
    await session.flush()
    return endpoint, secret


async def update_endpoint(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    allow_networks: Networks,
    endpoint_id: str,
    changes: dict[str, Any],
    checks: Mapping[str, validation.Rule] = MappingProxyType({}),
) -> WebhookEndpoint:
    """Change an endpoint. Disabling cancels what waits; enabling begins at the events from now on.

    `changes` holds only the attributes that were given: url, description, event_types, status, and the options of
    `create`, each of which null takes back.
    """
    endpoint = await _lock(session, actor, endpoint_id)
    checked = validation.validate_changes({**_rules(allow_networks), **checks}, changes)
    if "url" in checked:
        endpoint.url = checked["url"]
        _begin_anew(endpoint)
    _set(endpoint, keyring, checked)
    if "status" in checked:
        await _set_status(session, endpoint, checked["status"])
    endpoint.updated_at = clock.now()
    return endpoint


async def delete(session: AsyncSession, actor: Actor, endpoint_id: str) -> str:
    """Delete the endpoint and its replays, and cancel what waits for it; its deliveries stay to be looked at."""
    endpoint = await _lock(session, actor, endpoint_id)
    await end_deliveries(session, endpoint.id)
    await replays.delete_replays(session, endpoint.id)
    await forget_mails_about(session, endpoint.id)
    await session.delete(endpoint)
    return endpoint_id


async def rotate_secret(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    endpoint_id: str,
    overlap_seconds: int | None = None,
) -> tuple[WebhookEndpoint, str]:
    """Give the endpoint a new secret, shown only once, and a new key pair.

    The old ones sign as well until the overlap ends, older ones no longer.
    """
    overlap = rotation.overlap(overlap_seconds)
    endpoint = await _lock(session, actor, endpoint_id)
    secret, (signing_key, public_key), now = new_secret(), new_key_pair(), clock.now()
    endpoint.previous_secret_encrypted = endpoint.secret_encrypted if overlap else None
    endpoint.previous_signing_key_encrypted = endpoint.signing_key_encrypted if overlap else None
    endpoint.previous_secret_until = now + overlap if overlap else None
    endpoint.secret_encrypted = keyring.encrypt(secret)
    endpoint.signing_key_encrypted = keyring.encrypt(signing_key)
    endpoint.public_key = public_key
    endpoint.updated_at = now
    return endpoint, secret


async def disable(session: AsyncSession, endpoint: WebhookEndpoint, reason: str) -> None:
    """Disable the endpoint, which the caller has locked: what waits is cancelled, its replays end."""
    now = clock.now()
    endpoint.status = EndpointStatus.DISABLED.value
    endpoint.disabled_reason, endpoint.disabled_at, endpoint.updated_at = reason, now, now
    await session.flush()
    await end_deliveries(session, endpoint.id)


async def load_enabled(session: AsyncSession, actor: Actor, endpoint_id: str) -> WebhookEndpoint:
    """The endpoint, locked. Raises NOT_FOUND, and CONFLICT for a disabled one."""
    endpoint = await _lock(session, actor, endpoint_id)
    if endpoint.status != EndpointStatus.ENABLED.value:
        raise Refusal(
            ErrorCode.CONFLICT,
            "This endpoint is disabled and gets nothing; enable it first with updateWebhookEndpoint.",
            "webhookEndpointId",
        )
    return endpoint


async def _lock(session: AsyncSession, actor: Actor, endpoint_id: str) -> WebhookEndpoint:
    """The endpoint, locked against concurrent changes. Raises NOT_FOUND."""
    place = ("webhook endpoint", "webhookEndpointId")
    return await load_visible(session, actor, WebhookEndpoint, endpoint_id, *place, lock=FOR_UPDATE)


async def _set_status(session: AsyncSession, endpoint: WebhookEndpoint, status: EndpointStatus) -> None:
    if endpoint.status == status.value:
        return
    if status is EndpointStatus.DISABLED:
        await disable(session, endpoint, DISABLED_BY_ACCOUNT)
        return
    if await leases.cancel_pending(session, endpoint.id) >= leases.CANCELLED_AT_ONCE:
        raise Refusal(
            ErrorCode.CONFLICT,
            "Deliveries from before this endpoint was disabled are still being cancelled; enable it in a minute.",
            "status",
        )
    endpoint.first_sequence = await log.lock_position(session, endpoint.account_id)
    endpoint.status = EndpointStatus.ENABLED.value
    endpoint.disabled_reason = endpoint.disabled_at = None
    _begin_anew(endpoint)


def _begin_anew(endpoint: WebhookEndpoint) -> None:
    """Forget earlier failures and the pause asked for then, which say nothing about the endpoint from now on.

    The times of notices stay, so that people are told the same at most once a day.
    """
    endpoint.failing_since = endpoint.paused_until = None
    endpoint.failures = 0


def _set(endpoint: WebhookEndpoint, keyring: Keyring, values: dict[str, Any]) -> None:
    """Sets the attributes that were given and need no further step."""
    for name in PLAIN & values.keys():
        setattr(endpoint, name, values[name])
    if "headers" in values:
        headers = values["headers"]
        endpoint.headers = custom_headers.masked(headers)
        endpoint.headers_encrypted = keyring.encrypt(orjson.dumps(headers).decode()) if headers else None
    if "ordered" in values:
        endpoint.ordered = bool(values["ordered"])


def _rules(allow_networks: Networks) -> dict[str, validation.Rule]:
    return {
        "url": lambda value: _url(validation.not_cleared(value, "url"), allow_networks),
        "description": lambda value: validation.optional_text(value, "description"),
        "event_types": checked_event_types,
        "headers": custom_headers.checked_headers,
        "rate_limit": _rate,
        "status": lambda value: validation.not_cleared(value, "status"),
    }


def _rate(limit: int | None) -> int | None:
    if limit is not None and not 1 <= limit <= MAX_RATE:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"rateLimit must be 1 to {MAX_RATE} requests a second, got {limit}; null is no limit.",
            "rateLimit",
        )
    return limit


def _url(url: str, allow_networks: Networks) -> str:
    url = url.strip()
    try:
        check_url(url, allow_networks)
    except UrlRefused as error:
        raise Refusal(ErrorCode.URL_NOT_ALLOWED, str(error), "url") from None
    return url


async def _require_room(session: AsyncSession, actor: Actor) -> None:
    counted = visible(select(WebhookEndpoint), actor).with_only_columns(
        func.count(), maintain_column_froms=True
    )
    if (await session.execute(counted)).scalar_one() >= MAX_ENDPOINTS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"An account has at most {MAX_ENDPOINTS} webhook endpoints; delete one that is not needed.",
        )
