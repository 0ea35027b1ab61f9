"""The attempt store: writes attempts and the state of their deliveries, many at once, under the lease still held."""

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.sql import Sql, rows
from app.delivery.queue.leases import Claim, Key
from app.delivery.queue.models import Lane
from app.outbound.attempt import Attempt
from app.outbound.retry import Fate, Verdict

# A delivery that was cancelled or begun anew during the attempt stays so, unless the attempt succeeded. The rows are
# locked in the order of their ids, as everywhere, so that none waits in a circle. An attempt is recorded once, even
# when a commit whose answer was lost is repeated.
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
        SELECT given.* FROM @lists(id text, fence bigint, attempt bigint, schedule_start bigint, status text,
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
    FROM @lists(id text, attempt bigint, at bigint, duration_ms bigint, outcome text, status bigint, body text,
        error text, headers text, digest text)
""")


@dataclass(slots=True)
class AttemptResult:
    """An attempt at a claimed delivery, and its verdict."""

    claim: Claim
    attempt: Attempt
    verdict: Verdict

    def without_answer(self) -> Self:
        """The same result without the receiver's words."""
        attempt = self.attempt.without_answer()
        reason = None if self.verdict.reason is None else attempt.error
        return replace(self, attempt=attempt, verdict=replace(self.verdict, reason=reason))

    def bare(self) -> Self:
        """The same result with nothing that came from outside."""
        one = self.without_answer()
        attempt = replace(one.attempt, status=None, request_headers=None, request_digest=None)
        return replace(one, attempt=attempt)


async def record(session: AsyncSession, results: Sequence[AttemptResult]) -> set[Key]:
    """Write the attempts and outcomes of claims that still hold their deliveries; gives the keys of these claims.

    The other deliveries were claimed by someone else after the lease had run out, or were begun anew.
    """
    if not results:
        return set()
    finished = await session.execute(_FINISH.on(session), {"rows": rows(map(_outcome, results))})
    held: set[Key] = set(map(tuple, finished))
    done = results_of(results, held)
    if done:
        await session.execute(_ATTEMPT.on(session), {"rows": rows(map(_attempt, done))})
    return held


def results_of(results: Sequence[AttemptResult], keys: Set[Key]) -> Sequence[AttemptResult]:
    """The results of claims with these keys, all of which are among the results' keys."""
    if len(keys) == len(results):
        return results
    return [one for one in results if one.claim.key in keys]


def body_digest(body: bytes) -> str:
    """Tells whether a body that was made anew is the one that was sent."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def _outcome(result: AttemptResult) -> Sequence[Any]:
    """The row for `_FINISH`."""
    claim, verdict = result.claim, result.verdict
    # In order, a failed delivery goes before all others, also if it is part of a replay.
    tried_again = verdict.fate is Fate.FAILED and (claim.lane == Lane.FRESH or claim.ordered)
    return (
        claim.id,
        claim.fence,
        claim.attempt,
        claim.schedule_start,
        verdict.fate.value,
        Lane.RETRY if tried_again else claim.lane,
        verdict.delay,
    )


def _attempt(result: AttemptResult) -> Sequence[Any]:
    """The row for `_ATTEMPT`."""
    attempt = result.attempt
    return (
        result.claim.id,
        result.claim.attempt,
        attempt.started_at,
        attempt.duration_ms,
        attempt.outcome.value,
        attempt.status,
        attempt.response_body,
        attempt.error,
        attempt.request_headers,
        attempt.request_digest,
    )
