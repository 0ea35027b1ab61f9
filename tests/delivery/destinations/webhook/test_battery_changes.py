"""The fault battery: outages and their ends, and changes of an endpoint while deliveries wait."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.auth.actor import Actor
from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.queue import replays
from app.delivery.queue.deliveries import send_again
from app.delivery.queue.destination_queue import FIRST_LIMIT
from app.delivery.queue.models import DeliveryStatus, Replay
from app.events.models import EventRecord
from app.outbound.http.ssrf_guard import Networks
from tests.delivery import receivers
from tests.delivery.battery import arrivals, check_healthy, ended
from tests.delivery.scene import Scene, admin, open_scene
from tests.services.postgres import Postgres
from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.both_databases

BY_FAR_ENOUGH = [0.1] * 200
ONCE_MORE = [0.05]
SUCCEEDED, FAILED = DeliveryStatus.SUCCEEDED.value, DeliveryStatus.FAILED.value
EXHAUSTED, CANCELLED = DeliveryStatus.EXHAUSTED.value, DeliveryStatus.CANCELLED.value


@pytest.fixture
def schedule() -> list[float]:
    return BY_FAR_ENOUGH


@pytest.fixture
async def scene(migrated_url: str, schedule: list[float]) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=schedule) as opened:
        yield opened


class Beside:
    """A healthy endpoint in the same account and one in another, which get every event meanwhile."""

    def __init__(self, scene: Scene, receiver: Receiver) -> None:
        self.scene = scene
        self.receiver = receiver
        self.endpoints: dict[str, str] = {}
        self.accounts: dict[str, str] = {}
        self.events: dict[str, list[EventRecord]] = {}

    @classmethod
    async def of(cls, scene: Scene, receiver: Receiver, account: str) -> "Beside":
        beside = cls(scene, receiver)
        for path, its in (("/beside", account), ("/elsewhere", await scene.account())):
            beside.endpoints[path] = (await scene.endpoint(its, receiver.url(path))).id
            beside.accounts[path], beside.events[path] = its, []
        return beside

    async def happen(self, count: int = 1) -> list[EventRecord]:
        """Events in both accounts; gives the first one's, once the healthy endpoints have recorded theirs."""
        for path, account in self.accounts.items():
            self.events[path] += await self.scene.happen(account, count)
        await self.scene.until(self._arrived)
        return self.events["/beside"][-count:]

    async def check(self) -> None:
        for path, endpoint_id in self.endpoints.items():
            await check_healthy(self.scene, endpoint_id, self.events[path], self.receiver.to(path))

    async def _arrived(self) -> bool:
        done = [
            len(await self.scene.deliveries(destination_id=endpoint_id, status=SUCCEEDED))
            for endpoint_id in self.endpoints.values()
        ]
        return done == [len(events) for events in self.events.values()]


def having(scene: Scene, count: int, **values: Any) -> Callable[[], Any]:
    """Whether there are `count` deliveries with these values."""

    async def condition() -> bool:
        return len(await scene.deliveries(**values)) >= count

    return condition


async def test_an_outage_shorter_than_the_schedule(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    with Receiver() as away:
        endpoint = await scene.endpoint(account, away.url())
        beside = await Beside.of(scene, receiver, account)
        async with scene.worker() as worker:
            await beside.happen(5)
            await scene.until(having(scene, 5, destination_id=endpoint.id, status=SUCCEEDED))
            away.stop()
            await beside.happen(20)
            await scene.until(having(scene, 20, destination_id=endpoint.id, status=FAILED))
            away.start()
            await beside.happen(5)
            await scene.settled()
            assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)
        events = beside.events["/beside"]
        told = await ended(scene, endpoint.id, events)
        assert arrivals(away.requests, events, endpoint.secret) == [1] * 30
    for status, tries in told:
        assert (status, tries[-1]) == (SUCCEEDED, ("SUCCEEDED", 204))
        assert set(tries[:-1]) <= {("CONNECTION", None)}
    assert [len(tries) > 1 for _, tries in told][5:25] == [True] * 20
    await beside.check()


@pytest.mark.parametrize("schedule", [ONCE_MORE])
async def test_an_outage_longer_than_the_schedule_is_caught_up_by_a_replay(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    with Receiver() as away:
        endpoint = await scene.endpoint(account, away.url())
        beside = await Beside.of(scene, receiver, account)
        async with scene.worker() as worker:
            before = await beside.happen(5)
            await scene.settled()
            began = clock.now()
            away.stop()
            lost = await beside.happen(20)
            await scene.settled()
            away.start()
            fresh = await beside.happen(5)
            async with scene.database.transaction() as session:
                row = await endpoints.load_enabled(session, admin(account), endpoint.id)
                missed = replays.Range(failed_since=began)
                keyring = scene.services.keyring
                replay = await replays.create(session, keyring, timedelta(days=90), WEBHOOK, row, missed)
            fresh += await beside.happen(5)
            await scene.until(lambda: _is_filled(scene, replay.id))
            await scene.settled()
            assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)
        events = beside.events["/beside"]
        told = await ended(scene, endpoint.id, events)
        again = await ended(scene, endpoint.id, lost, replay.id)
        assert arrivals(away.requests, events, endpoint.secret) == [1] * 35
        replayed = [one for one in away.requests if "voltwire-replay-id" in one.headers]
    done = (SUCCEEDED, [("SUCCEEDED", 204)])
    assert told[:5] + told[25:] == [done] * len(before + fresh)
    assert told[5:25] == [(EXHAUSTED, [("CONNECTION", None)] * 2)] * len(lost)
    assert again == [done] * len(lost)
    assert {one.headers["voltwire-replay-id"] for one in replayed} == {replay.id}
    assert {one.headers["webhook-id"] for one in replayed} == {event.id for event in lost}
    await beside.check()


async def _is_filled(scene: Scene, replay_id: str) -> bool:
    row = await scene.row(Replay, replay_id)
    return bool(row.position == row.through)


class Storm:
    """A receiver that fails all it is asked until it is told to recover; how many requests it has at once."""

    def __init__(self) -> None:
        self.is_over = False
        self.failed = self.answered = self.open = 0
        # At the arrival of each request: how many were open, and how many had been answered well before.
        self.seen: list[tuple[int, int]] = []

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.seen.append((self.open, self.answered))
        is_over = self.is_over
        # As long as an answer may take, so that others come meanwhile.
        await asyncio.sleep(0.01)
        self.open -= 1
        self.answered += is_over
        self.failed += not is_over
        writer.write(receivers.OK if is_over else b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()


async def test_a_storm_of_errors_and_a_recovery_without_a_herd(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    storm = Storm()
    async with receivers.receiver(storm) as place:
        endpoint = await scene.endpoint(account, place.url())
        beside = await Beside.of(scene, receiver, account)
        async with scene.worker() as worker:
            await beside.happen(50)
            await scene.until(having(scene, 20, destination_id=endpoint.id, status=FAILED))
            storm.is_over = True
            recovered = len(storm.seen)
            await beside.happen(10)
            await scene.settled()
            assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)
        events = beside.events["/beside"]
        told = await ended(scene, endpoint.id, events)
        came = arrivals(place.requests, events, endpoint.secret)
    assert max(open for open, _ in storm.seen[:recovered]) <= FIRST_LIMIT
    # Each success lets one request more come at once.
    assert [(open, good) for open, good in storm.seen[recovered:] if open > 1 + good] == []
    assert came == [len(tries) for _, tries in told]
    assert sum(came) == storm.failed + 60
    assert {(status, tries[-1]) for status, tries in told} == {(SUCCEEDED, ("SUCCEEDED", 200))}
    await beside.check()


Change = Callable[[Any, Actor, Scene, str, str], Any]


async def deleted(session: Any, actor: Actor, scene: Scene, endpoint_id: str, url: str) -> None:
    await endpoints.delete(session, actor, endpoint_id)


async def disabled(session: Any, actor: Actor, scene: Scene, endpoint_id: str, url: str) -> None:
    await update(session, actor, scene, endpoint_id, {"status": EndpointStatus.DISABLED})


async def pointed_elsewhere(session: Any, actor: Actor, scene: Scene, endpoint_id: str, url: str) -> None:
    await update(session, actor, scene, endpoint_id, {"url": url})


async def rotated(session: Any, actor: Actor, scene: Scene, endpoint_id: str, url: str) -> str:
    _, secret = await endpoints.rotate_secret(session, actor, scene.services.keyring, endpoint_id)
    return secret


async def update(
    session: Any, actor: Actor, scene: Scene, endpoint_id: str, changes: dict[str, Any]
) -> WebhookEndpoint:
    networks: Networks = scene.services.settings.webhook_allow_networks
    keyring = scene.services.keyring
    return await endpoints.update_endpoint(session, actor, keyring, networks, endpoint_id, changes)


@pytest.mark.parametrize("change", [deleted, disabled, pointed_elsewhere, rotated])
async def test_an_endpoint_that_changes_while_deliveries_wait(
    scene: Scene, receiver: Receiver, change: Change
) -> None:
    account = await scene.account()
    with Receiver() as changing:
        changing.on("/old", Answer(hold=True))
        endpoint = await scene.endpoint(account, changing.url("/old"))
        beside = await Beside.of(scene, receiver, account)
        async with scene.worker() as worker:
            await beside.happen(20)
            await changing.wait_for(int(FIRST_LIMIT))
            async with scene.database.transaction() as session:
                secret = await change(session, admin(account), scene, endpoint.id, changing.url("/new"))
            changing.release()
            await beside.happen(5)
            await scene.settled()
            assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)
        old, new = changing.to("/old"), changing.to("/new")
    deliveries = await scene.deliveries(destination_id=endpoint.id)
    arrived = [one.headers["webhook-id"] for one in old + new]
    # Exactly the deliveries that arrived are recorded as arrived, once.
    assert sorted(arrived) == sorted(one.event_id for one in deliveries if one.status == SUCCEEDED)
    # Four were on their way, and one may have been at hand.
    at_hand = (int(FIRST_LIMIT), int(FIRST_LIMIT) + 1)
    if change in (deleted, disabled):
        assert len(arrived) in at_hand
        assert {one.status for one in deliveries} == {SUCCEEDED, CANCELLED}
        # Nothing is made for it any more.
        assert len(deliveries) == 20
    else:
        events = beside.events["/beside"]
        assert await ended(scene, endpoint.id, events) == [(SUCCEEDED, [("SUCCEEDED", 204)])] * 25
    if change is pointed_elsewhere:
        assert len(old) in at_hand
    if change is rotated:
        for request in old:
            Webhook(endpoint.secret).verify(request.body, request.headers)
        for request in old[at_hand[1] :]:
            Webhook(secret).verify(request.body, request.headers)
    await beside.check()


async def test_nobody_is_put_off_for_longer_than_is_right(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    homes = {
        name: await scene.endpoint(account, receiver.url(f"/{name}")) for name in ("moved", "anew", "asked")
    }
    beside = await Beside.of(scene, receiver, account)
    for name in homes:
        receiver.on(f"/{name}", Answer(429, {"retry-after": "99999999999"}))
    async with scene.worker():
        (first,) = await beside.happen()
        await scene.until(having(scene, 3, status=FAILED))
        for endpoint in homes.values():
            await _waits_for_a_day(scene, endpoint.id)

        # Then one is pointed elsewhere, one is enabled anew, and to one its delivery is sent again by hand.
        for name in homes:
            receiver.on(f"/{name}", 204)
        async with scene.database.transaction() as session:
            actor = admin(account)
            await update(session, actor, scene, homes["moved"].id, {"url": receiver.url("/new")})
            await update(session, actor, scene, homes["anew"].id, {"status": EndpointStatus.DISABLED})
            await update(session, actor, scene, homes["anew"].id, {"status": EndpointStatus.ENABLED})
            (waiting,) = await scene.deliveries(destination_id=homes["asked"].id)
            await send_again(session, actor, KINDS, waiting.id)
        (fresh,) = await beside.happen()
        await scene.until(having(scene, 4, event_id=fresh.id, status=SUCCEEDED))
        await scene.until(having(scene, 1, id=waiting.id, status=SUCCEEDED))
    moved, anew, asked = (homes[name].secret for name in ("moved", "anew", "asked"))
    assert arrivals(receiver.to("/moved"), [first], moved) == [1]
    assert arrivals(receiver.to("/anew")[:1], [first], anew) == [1]
    assert arrivals(receiver.to("/new"), [fresh], moved) == [1]
    assert arrivals(receiver.to("/anew")[1:], [fresh], anew) == [1]
    assert arrivals(receiver.to("/asked"), [first, fresh], asked) == [2, 1]
    await beside.check()


async def _waits_for_a_day(scene: Scene, endpoint_id: str) -> None:
    """Check that delivery and endpoint wait for a day, the most that a receiver can ask for."""
    (waiting,) = await scene.deliveries(destination_id=endpoint_id)
    (attempt,) = await scene.attempts(waiting.id)
    paused_until = (await scene.row(WebhookEndpoint, endpoint_id)).paused_until
    assert waiting.due_at is not None
    for until in (waiting.due_at, paused_until):
        assert timedelta(days=1) <= until - attempt.at <= timedelta(days=1, minutes=1)


async def test_retries_by_hand_race_the_scheduled_ones(scene: Scene, receiver: Receiver) -> None:
    chance = random.Random(4)
    receiver.on("/moody", lambda _: Answer(chance.choice([204, 500, 500])))
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url("/moody"))
    beside = await Beside.of(scene, receiver, account)
    by_hand = 0
    async with scene.worker() as worker, scene.worker() as other:
        events = await beside.happen(20)
        for one in await scene.deliveries(destination_id=endpoint.id):
            by_hand += await _sent_again(scene, account, one.id)
        await scene.settled()
        assert worker.failures + other.failures == 0
        assert worker.senders["webhook"].stats.leases_lost + other.senders["webhook"].stats.leases_lost == 0
    told = await ended(scene, endpoint.id, events)
    assert {(status, tries[-1]) for status, tries in told} == {(SUCCEEDED, ("SUCCEEDED", 204))}
    assert arrivals(receiver.to("/moody"), events, endpoint.secret) == [len(tries) for _, tries in told]
    # Deliveries that had arrived came again only by a retry by hand.
    assert sum(tries.count(("SUCCEEDED", 204)) - 1 for _, tries in told) <= by_hand
    assert by_hand > 0
    await beside.check()


async def _sent_again(scene: Scene, account: str, delivery_id: str) -> bool:
    """Send a delivery again; False if it waits for its first attempt or is under way."""
    try:
        async with scene.database.transaction() as session:
            await send_again(session, admin(account), KINDS, delivery_id)
    except Refusal as refused:
        if refused.code is not ErrorCode.CONFLICT:
            raise
        return False
    return True


async def test_postgresql_is_killed_and_comes_back_while_deliveries_are_under_way(
    postgres: Postgres, receiver: Receiver
) -> None:
    url = await postgres.create_database()
    async with open_scene(url, webhook_timeout=4) as scene:
        accounts = [await scene.account() for _ in range(2)]
        homes = {account: await scene.endpoint(account, receiver.url(f"/{account}")) for account in accounts}
        async with scene.worker() as worker, scene.worker() as other:
            events = {account: await scene.happen(account, 300) for account in accounts}
            await receiver.wait_for(100)
            await asyncio.to_thread(postgres.kill)
            await scene.until(lambda: _failed(worker, other))
            await asyncio.to_thread(postgres.start)
            # The test's own connections have ended, too.
            await scene.database.engine.dispose()
            for account in accounts:
                events[account] += await scene.happen(account, 10)
            await scene.settled()
            lost = worker.senders["webhook"].stats.leases_lost + other.senders["webhook"].stats.leases_lost
        again = 0
        for account, endpoint in homes.items():
            told = await ended(scene, endpoint.id, events[account])
            assert told == [(SUCCEEDED, [("SUCCEEDED", 204)])] * 310
            came = arrivals(receiver.to(f"/{account}"), events[account], endpoint.secret)
            assert min(came) == 1
            again += sum(came) - len(came)
        # A delivery came twice only if it was claimed again, which its first sender found on recording.
        assert again <= lost
    await postgres.drop_database(url)


async def _failed(*workers: Any) -> bool:
    return all(worker.failures > 0 for worker in workers)
