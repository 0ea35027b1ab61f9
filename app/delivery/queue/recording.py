"""Writes results and their consequences, all in one transaction, or one by one where the database refuses one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.outages import error_name, is_transient
from app.db.database import Database
from app.delivery.queue import attempt_store, leases
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.leases import Claim, Key
from app.delivery.queue.provider import Provider


@dataclass(slots=True)
class RecordedClaims:
    """The claims whose results are recorded now, and those that lost their delivery to a newer claim.

    A result in neither cannot be stored in any form: its delivery is free again when its lease runs out.
    """

    done: set[Key] = field(default_factory=set)
    lost: set[Key] = field(default_factory=set)


class Recording:
    """Writes results of one provider into the database."""

    def __init__(self, database: Database, provider: Provider, log: Any) -> None:
        self._database = database
        self._provider = provider
        self._log = log

    async def write(
        self, results: Sequence[AttemptResult], given_back: Sequence[Claim] = (), *, again: bool = False
    ) -> RecordedClaims:
        """Record these and release what is given back. `again`: some of them may be recorded already.

        Raises the errors of a database that is away, after which all may be written again.
        """
        try:
            return await self._write_batch(results, given_back, again)
        except Exception as error:
            if is_transient(error):
                raise
        recorded = await self._write_batch([], given_back, again)
        for result in results:
            alone = await self._write_alone(result)
            recorded.done |= alone.done
            recorded.lost |= alone.lost
        return recorded

    async def _write_alone(self, result: AttemptResult) -> RecordedClaims:
        """Record one result: without its answer if that is refused, and at last only the attempt's outcome.

        So the attempt counts, and a delivery that can never be recorded in full ends with the schedule.
        """
        for one in (result, result.without_answer()):
            try:
                return await self._write_batch([one], (), again=True)
            except Exception as error:
                if is_transient(error):
                    raise
                kind = error_name(error)
        self._log.error("delivery_attempt_refused", delivery_id=result.claim.id, error=kind)
        try:
            return await self._write_batch([result.bare()], (), again=True, updates_destinations=False)
        except Exception as error:
            if is_transient(error):
                raise
            return RecordedClaims()

    async def _write_batch(
        self,
        results: Sequence[AttemptResult],
        given_back: Sequence[Claim],
        again: bool,
        updates_destinations: bool = True,
    ) -> RecordedClaims:
        recorded = RecordedClaims()
        async with self._database.transaction() as session:
            if results:
                held = await _still_held(session, results, again)
                if updates_destinations:
                    await self._provider.update_destinations(session, held)
                recorded.done = await attempt_store.record(session, held)
                if updates_destinations:
                    done = attempt_store.results_of(held, recorded.done)
                    await self._provider.note_successes(session, done)
                await _find_lost(session, results, recorded)
            if given_back:
                await leases.release(session, given_back)
        return recorded


async def _still_held(
    session: AsyncSession, results: Sequence[AttemptResult], again: bool
) -> Sequence[AttemptResult]:
    """Without the results of claims that others took over, and those that are recorded: they change nothing."""
    now = time.monotonic()
    unsure = results if again else [one for one in results if one.claim.expires_at <= now]
    if not unsure:
        return results
    made = await leases.still_held(session, [one.claim for one in unsure])
    gone = {
        one.claim.key for one in unsure if made.get(one.claim.key, one.claim.attempt) >= one.claim.attempt
    }
    return [one for one in results if one.claim.key not in gone]


async def _find_lost(
    session: AsyncSession, results: Sequence[AttemptResult], recorded: RecordedClaims
) -> None:
    """Tell results that a commit whose answer was lost has recorded from deliveries that others took over."""
    if len(recorded.done) < len(results):
        left = [one.claim for one in results if one.claim.key not in recorded.done]
        recorded.done |= (await leases.still_held(session, left)).keys()
        recorded.lost = {one.key for one in left} - recorded.done
