"""Log lines about attempts: each has the ids of the delivery, its destination, its event and its replay."""

from typing import Any

from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.leases import Claim


def log_attempt(log: Any, result: AttemptResult, **more: Any) -> None:
    attempt = result.attempt
    log.info(
        "delivery_attempt",
        **_ids(result.claim),
        **more,
        outcome=attempt.outcome.value,
        status=attempt.status,
        fate=result.verdict.fate.value,
        duration_ms=attempt.duration_ms,
    )


def log_lost_lease(log: Any, claim: Claim) -> None:
    """Log that another worker took the delivery over before this attempt was recorded."""
    log.warning("delivery_lease_lost", **_ids(claim))


def _ids(claim: Claim) -> dict[str, Any]:
    return {
        "account_id": claim.account_id,
        "destination_id": claim.destination_id,
        "event_id": claim.event_id,
        "delivery_id": claim.id,
        "replay_id": claim.replay_id or None,
        "attempt": claim.attempt,
    }
