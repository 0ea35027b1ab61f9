"""Outcomes: attempts and what became of their deliveries, many at once, by whoever still holds the lease."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.sql import Sql, rows
from app.delivery.queue.leases import Claim, Key
from app.delivery.queue.models import Lane
from app.outbound.attempt import Attempt
from app.outbound.retry import Fate, Verdict

# What was cancelled or begun anew while the attempt was under way stays so, unless the attempt was the one that
# succeeded. The rows are locked in the order of their ids, as everywhere, so that none waits in a circle. An attempt is
# recorded once, also when a commit whose answer was lost is tried again.
_KEPT = """
    given.status <> 'SUCCEEDED' AND (deliveries.schedule_start <> given.schedule_start
        OR (deliveries.due_at IS NULL AND given.status = 'FAILED'))
"""
_FINISH = Sql(
    """
    UPDATE deliveries SET
        attempts_made = given.attempt,
        leased_until = NULL,
        status = CASE WHEN KEPT THEN deliveries.status ELSE given.status END,
        lane = CASE WHEN KEPT THEN deliveries.lane ELSE given.lane END,
        due_at = CASE WHEN KEPT THEN deliveries.due_at
            WHEN given.status = 'FAILED' THEN @later(given.delay) ELSE NULL END,
        finished_at = CASE WHEN KEPT THEN deliveries.finished_at
            WHEN given.status = 'FAILED' THEN NULL ELSE @now END
    FROM (
        SELECT given.* FROM @rows(id text, fence bigint, attempt bigint, schedule_start bigint, status text,
            lane bigint, delay float8)
        JOIN deliveries AS held ON held.id = given.id AND held.fence = given.fence
            AND held.attempts_made < given.attempt
        ORDER BY held.id @lock(held)
    ) AS given
    WHERE deliveries.id = given.id
    RETURNING deliveries.id, deliveries.fence
    """.replace("KEPT", _KEPT)
)
_ATTEMPT = Sql("""
    INSERT INTO delivery_attempts
        (delivery_id, number, at, duration_ms, outcome, response_status, response_body, error, request_headers,
        request_digest)
    SELECT given.id, given.attempt, @instant(given.at), given.duration_ms, given.outcome, given.status, given.body,
        given.error, given.headers, given.digest
    FROM @rows(id text, attempt bigint, at bigint, duration_ms bigint, outcome text, status bigint, body text,
        error text, headers text, digest text)
""")


@dataclass(frozen=True, slots=True)
class Result:
    """What an attempt was, and what follows from it."""

    claim: Claim
    exchange: Attempt
    verdict: Verdict

    def without_answer(self) -> Self:
        """The same result without a word of what the receiver said."""
        exchange = self.exchange.without_answer()
        reason = None if self.verdict.reason is None else exchange.error
        return replace(self, exchange=exchange, verdict=replace(self.verdict, reason=reason))


async def record(session: AsyncSession, results: Sequence[Result]) -> set[Key]:
    """Write the attempts and outcomes of claims that still hold their deliveries; gives the keys of these claims.

    The other deliveries were claimed by someone else after the lease had run out, or were begun anew.
    """
    if not results:
        return set()
    finished = await session.execute(_FINISH.on(session), {"rows": rows(map(_outcome, results))})
    held = {(one.id, one.fence) for one in finished}
    attempts = [_attempt(result) for result in results if result.claim.key in held]
    if attempts:
        await session.execute(_ATTEMPT.on(session), {"rows": rows(attempts)})
    return held


def _outcome(result: Result) -> Mapping[str, Any]:
    claim, verdict = result.claim, result.verdict
    # In order, what failed goes before all else, also if it is part of a replay.
    tried_again = verdict.fate is Fate.FAILED and (claim.lane == Lane.FRESH or claim.ordered)
    return {
        "id": claim.id,
        "fence": claim.fence,
        "attempt": claim.attempt,
        "schedule_start": claim.schedule_start,
        "status": verdict.fate.value,
        "lane": Lane.RETRY if tried_again else claim.lane,
        "delay": verdict.delay,
    }


def _attempt(result: Result) -> Mapping[str, Any]:
    exchange = result.exchange
    return {
        "id": result.claim.id,
        "attempt": result.claim.attempt,
        "at": exchange.started_at,
        "duration_ms": exchange.duration_ms,
        "outcome": exchange.outcome.value,
        "status": exchange.status,
        "body": exchange.response_body,
        "error": exchange.error,
        "headers": exchange.request_headers,
        "digest": exchange.request_digest,
    }
