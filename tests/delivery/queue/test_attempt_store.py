"""Attempts are recorded once, under the lease that is still held."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import structlog

from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.destinations.webhook.payload_selection import PayloadSelection
from app.delivery.destinations.webhook.provider import WebhookProvider
from app.delivery.metadata import METADATA
from app.delivery.queue import attempt_store, leases
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.leases import Claim, Key, Wanted
from app.delivery.queue.models import Lane
from app.delivery.queue.recording import Recording
from app.outbound.attempt import Attempt, AttemptOutcome
from app.outbound.http.transport import Transport
from app.outbound.retry import Fate, Verdict
from tests.delivery.scene import Scene, open_scene

pytestmark = pytest.mark.both_databases


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url) as opened:
        yield opened


async def claimed(scene: Scene) -> Claim:
    """Claim a delivery for its first attempt."""
    account = await scene.account()
    endpoint = await scene.endpoint(account, "https://example.com/")
    await scene.happen(account)
    await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
    async with scene.database.transaction() as session:
        (row,) = await leases.pick(session, [Wanted(endpoint.id, Lane.FRESH, 5)])
        await leases.lease(session, {row.id: "{}"}, 60)
    return Claim(
        id=row.id,
        account_id=account,
        event_id=row.event_id,
        destination_id=endpoint.id,
        replay_id="",
        lane=row.lane,
        attempt=1,
        schedule_start=0,
        fence=row.fence + 1,
        body=b"{}",
        target=None,
        expires_at=0.0,
    )


def failed(claim: Claim) -> AttemptResult:
    attempt = Attempt(1_700_000_000_123, 5, AttemptOutcome.HTTP_STATUS, 500, "naïve 😀", "It answered 500.")
    return AttemptResult(claim, attempt, Verdict(Fate.FAILED, delay=7.5, reason="It answered 500."))


async def record(scene: Scene, *results: AttemptResult) -> set[Key]:
    async with scene.database.transaction() as session:
        return await attempt_store.record(session, results)


async def test_a_claimed_delivery_is_not_due_until_its_lease_ends(scene: Scene) -> None:
    claim = await claimed(scene)
    wanted = [Wanted(claim.destination_id, Lane.FRESH, 5)]
    async with scene.database.reading() as session:
        assert await leases.due_lanes(session, "whe") == []
    async with scene.database.transaction() as session:
        assert await leases.pick(session, wanted) == []
    await scene.run_out_leases()
    async with scene.database.reading() as session:
        (due,) = await leases.due_lanes(session, "whe")
        assert await leases.due_lanes(session, "ems") == []
    assert (due.destination_id, due.lane, due.seconds <= 0) == (claim.destination_id, Lane.FRESH, True)
    async with scene.database.transaction() as session:
        assert [row.id for row in await leases.pick(session, wanted)] == [claim.id]


async def test_a_failure_is_due_again_after_its_delay(scene: Scene) -> None:
    claim = await claimed(scene)
    assert await record(scene, failed(claim)) == {claim.key}
    (attempt,) = await scene.attempts(claim.id)
    assert attempt.at.isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert (attempt.duration_ms, attempt.response_status, attempt.response_body) == (5, 500, "naïve 😀")
    async with scene.database.reading() as session:
        (due,) = await leases.due_lanes(session, "whe")
    assert due.lane == Lane.RETRY
    assert 0 < due.seconds <= 7.5


async def test_an_attempt_is_recorded_once(scene: Scene) -> None:
    claim = await claimed(scene)
    result = failed(claim)
    assert await record(scene, result) == {claim.key}
    assert await record(scene, result) == set()
    assert len(await scene.attempts(claim.id)) == 1


@pytest.mark.parametrize("stale_first", [True, False])
async def test_of_two_results_of_one_delivery_the_holders_counts(scene: Scene, stale_first: bool) -> None:
    claim = await claimed(scene)
    stale = replace(failed(claim).attempt, error="stale")
    results = [replace(failed(replace(claim, fence=claim.fence - 1)), attempt=stale), failed(claim)]
    assert await record(scene, *results if stale_first else results[::-1]) == {claim.key}
    (attempt,) = await scene.attempts(claim.id)
    assert attempt.error == failed(claim).attempt.error


async def test_what_a_lost_answer_has_recorded_is_not_lost(scene: Scene) -> None:
    claim = await claimed(scene)
    selection = PayloadSelection(scene.services, lambda: scene.world.engine)
    provider = WebhookProvider(scene.services.mail_links, Transport([]), 5, selection)
    recording = Recording(scene.database, provider, structlog.get_logger())
    async with scene.database.reading() as session:
        targets = await provider.targets(session, [claim.destination_id])
    claim.target = targets[claim.destination_id]
    for again in (False, True):
        recorded = await recording.write([failed(claim)], again=again)
        assert (recorded.done, recorded.lost) == ({claim.key}, set())
    assert (await scene.row(WebhookEndpoint, claim.destination_id)).failures == 1
    taken_over = replace(claim, fence=claim.fence - 1)
    recorded = await recording.write([failed(taken_over)], again=True)
    assert (recorded.done, recorded.lost) == (set(), {taken_over.key})
    assert (await scene.row(WebhookEndpoint, claim.destination_id)).failures == 1


async def test_who_lost_the_lease_records_nothing(scene: Scene) -> None:
    claim = await claimed(scene)
    stale = replace(claim, fence=claim.fence - 1)
    assert await record(scene, failed(stale)) == set()
    async with scene.database.transaction() as session:
        await leases.release(session, [stale])
    (delivery,) = await scene.deliveries()
    assert (delivery.attempts_made, delivery.leased_until is None) == (0, False)
    async with scene.database.transaction() as session:
        await leases.release(session, [claim])
    (delivery,) = await scene.deliveries()
    assert delivery.leased_until is None
