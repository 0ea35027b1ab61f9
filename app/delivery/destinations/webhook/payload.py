"""The payload of a webhook: the JSON body of an event, and the headers of one attempt."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Row

from app import __version__
from app.core import clock
from app.delivery.destinations.claimed_event import json_value
from app.delivery.destinations.webhook import custom_headers, signing
from app.delivery.queue.leases import Claim, PickedDelivery

USER_AGENT = f"Voltwire/{__version__}"


def event_json(row: PickedDelivery | Row[Any]) -> str | None:
    """The body for a picked delivery: type, timestamp, id, sequence, data, in this order; None if its event is gone.

    A test event, which has no place in the log, brings its data along in `test_event`.
    """
    is_test = row.event_sequence is None
    if not is_test and row.occurred_at is None:
        return None
    return orjson.dumps(body_of(row, json_value(row.test_event if is_test else row.data))).decode()


def body_of(row: PickedDelivery | Row[Any], data: Any) -> dict[str, Any]:
    """The body as an object, with this data; a test event carries `"test": true`."""
    is_test = row.event_sequence is None
    content = {
        "type": row.event_type,
        "timestamp": clock.format_utc(row.created_at if is_test else row.occurred_at),
        "id": row.event_id,
        "sequence": 0 if is_test else row.event_sequence,
        "data": data,
    }
    return content | {"test": True} if is_test else content


def attempt_headers(
    claim: Claim, secrets: Sequence[str], private_keys: Sequence[str], timestamp: int
) -> dict[str, str]:
    """The headers of one attempt; `timestamp` is in epoch seconds."""
    headers = {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": claim.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signing.sign(secrets, claim.event_id, timestamp, claim.body, private_keys),
        "voltwire-delivery-id": claim.id,
        "voltwire-attempt": str(claim.attempt),
    }
    if claim.replay_id:
        headers["voltwire-replay-id"] = claim.replay_id
    return headers


def shown_headers(own: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """The headers of one attempt as JSON, as they are kept to be shown: the values of the account's `own` masked."""
    return orjson.dumps({**(custom_headers.masked(own) or {}), **ours}).decode()
