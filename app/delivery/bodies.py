"""What a webhook says: the frozen JSON body of an event, and the headers of one attempt."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Row

from app import __version__, clock
from app.delivery import signing
from app.delivery.claims import Claim

USER_AGENT = f"Voltwire/{__version__}"


def event_json(row: Row[Any]) -> str | None:
    """The body for a picked delivery: type, timestamp, id, sequence, data, in this order; None if its event is gone.

    A test event, which has no place in the log, brings its data along in `test_event`.
    """
    if row.event_sequence is None:
        content = _content(row, row.created_at, 0, row.test_event) | {"test": True}
    elif row.occurred_at is None:
        return None
    else:
        content = _content(row, row.occurred_at, row.event_sequence, row.data)
    return orjson.dumps(content).decode()


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


def parsed(column: Any) -> Any:
    """The value of a JSON column as a textual statement gives it: parsed by one driver, not by the other."""
    return orjson.loads(column) if isinstance(column, str | bytes) else column


def _content(row: Row[Any], at: Any, sequence: int, data: Any) -> dict[str, Any]:
    return {
        "type": row.event_type,
        "timestamp": clock.format_utc(at),
        "id": row.event_id,
        "sequence": sequence,
        "data": parsed(data),
    }
