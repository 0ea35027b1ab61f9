"""A third kind of destination, an inbox in memory: all of it stands in this file; the queue and the API serve it."""

from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import BigInteger, Row, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import AccountWide
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, UtcDateTime, database_now
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.worker_parts import WorkerParts
from app.delivery.metadata import METADATA
from app.delivery.queue.attempt_store import AttemptResult, body_digest
from app.delivery.queue.cancellation import Cancellation
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.kinds import Batching, DestinationKind, DestinationKinds, DestinationSender
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import Delivery, Lane, Replay
from app.delivery.queue.provider import Provider
from app.delivery.queue.sender import Sender
from app.events import log
from app.events.publisher import DISPATCH_CHANNEL
from app.outbound.attempt import Attempt, AttemptOutcome
from app.server.process import Process
from tests.delivery.scene import Scene, open_scene

pytestmark = pytest.mark.both_databases

SCHEDULE = [0.05, 0.05]


class Base(DeclarativeBase):
    """Tables beside those of the migrations."""


class Inbox(AccountWide, Base):
    __tablename__ = "inboxes"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("inb"))
    account_id: Mapped[str]
    status: Mapped[str] = mapped_column(default="OPEN")
    event_types: Mapped[list[str] | None] = mapped_column(Json)
    filter: Mapped[dict[str, Any] | None] = mapped_column(Json)
    first_sequence: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=clock.now)
    # Only for order, rates, pauses and batches.
    ordered: Mapped[bool] = mapped_column(default=False)
    rate_limit: Mapped[int | None]
    held_by: Mapped[str | None]
    held_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    paused_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    batch: Mapped[str | None]


@dataclass(frozen=True)
class InboxTarget:
    id: str
    ordered: bool
    rate_limit: int | None
    paused_seconds: float


@dataclass
class InboxProvider(Provider):
    """Takes deliveries, unless the next answer that was planned is another outcome."""

    timeout: float = 5.0
    most_in_flight: int = 10
    most_each: int = 4
    arrived: list[tuple[str, str]] = field(default_factory=list)
    """Inbox and event."""
    planned: deque[AttemptOutcome] = field(default_factory=deque)
    is_unrecordable: bool = False

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> Mapping[str, InboxTarget]:
        statement = select(Inbox, database_now()).where(Inbox.id.in_(ids), Inbox.status == "OPEN")
        return {
            one.id: InboxTarget(
                one.id,
                one.ordered,
                one.rate_limit,
                (one.paused_until - now).total_seconds() if one.paused_until else 0.0,
            )
            for one, now in await session.execute(statement)
        }

    async def body(self, session: AsyncSession, row: Row[Any], target: InboxTarget) -> str | None:
        return None if row.occurred_at is None else str(row.event_id)

    async def send(self, claim: Claim) -> Attempt:
        self.arrived.append((claim.destination_id, claim.body.decode()))
        outcome = self.planned.popleft() if self.planned else AttemptOutcome.SUCCEEDED
        return Attempt(clock.to_ms(clock.now()), 1, outcome, request_digest=body_digest(claim.body))

    async def update_destinations(self, session: AsyncSession, results: Sequence[AttemptResult]) -> None:
        if self.is_unrecordable:
            raise ValueError("never")


def inbox_kind(provider: InboxProvider) -> DestinationKind:
    def senders(parts: WorkerParts) -> Mapping[str, DestinationSender]:
        return {"inbox": Sender(parts.services.database, kind, provider, SCHEDULE, parts.worker_id)}

    far = clock.from_ms(4_000_000_000_000)
    kind = DestinationKind(
        prefix="inb",
        table=Inbox,
        active_status="OPEN",
        noun="inbox",
        inactive="is closed",
        id_field="inboxId",
        senders=senders,
        batching=Batching(Inbox.batch, lambda choice, now: far if choice == "LATER" else None),
        has_pauses=True,
        event_body=lambda row: str(row.event_id),
    )
    return kind


@pytest.fixture
async def scene(migrated_url: str, kinds: DestinationKinds) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, kinds) as opened:
        async with opened.database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield opened
        async with opened.database.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)


@pytest.fixture
def provider() -> InboxProvider:
    return InboxProvider()


@pytest.fixture
def kinds(provider: InboxProvider) -> DestinationKinds:
    return DestinationKinds(*KINDS, inbox_kind(provider))


async def open_inbox(scene: Scene, account_id: str, **values: Any) -> str:
    """An inbox for the events from now on."""
    async with scene.database.transaction() as session:
        given = {"first_sequence": await log.lock_position(session, account_id)} | values
        inbox = Inbox(id=new_id("inb"), account_id=account_id, **given)
        session.add(inbox)
    return inbox.id


async def retry(scene: Scene, key: str, delivery_id: str) -> list[str]:
    """Retries a delivery through the API; the sentences that refuse it."""
    query = """
        mutation ($id: ID!) { retryDelivery(input: {deliveryId: $id}) { delivery { status } userErrors { message } } }
    """
    payload = (await scene.world.data(query, {"id": delivery_id}, key=key))["retryDelivery"]
    assert payload["delivery"] == (None if payload["userErrors"] else {"status": "PENDING"})
    return [one["message"] for one in payload["userErrors"]]


async def statuses(scene: Scene, inbox_id: str) -> list[str]:
    return [one.status for one in await scene.deliveries(destination_id=inbox_id)]


async def test_events_reach_it_and_are_tried_again(scene: Scene, provider: InboxProvider) -> None:
    account = await scene.account()
    inbox = await open_inbox(scene, account, event_types=["customer.*"])
    other = await open_inbox(scene, account, event_types=["meter.*"])
    provider.planned.append(AttemptOutcome.CONNECTION)
    async with scene.worker() as worker:
        (event,) = await scene.happen(account)
        await scene.settled()
        stats = worker.senders["inbox"].stats
        assert (stats.outcomes, stats.fates) == (
            {"CONNECTION": 1, "SUCCEEDED": 1},
            {"FAILED": 1, "SUCCEEDED": 1},
        )
        assert (worker.failures, stats.leases_lost) == (0, 0)
    assert provider.arrived == [(inbox, event.id)] * 2
    (delivery,) = await scene.deliveries(destination_id=inbox)
    assert (delivery.status, delivery.attempts_made) == ("SUCCEEDED", 2)
    assert [one.outcome for one in await scene.attempts(delivery.id)] == ["CONNECTION", "SUCCEEDED"]
    assert await statuses(scene, other) == []


async def test_it_is_given_up_and_retried_by_hand(scene: Scene, provider: InboxProvider) -> None:
    account = await scene.world.account()
    inbox = await open_inbox(scene, account.id)
    provider.planned.extend([AttemptOutcome.TIMEOUT] * 3)
    async with scene.worker():
        (event,) = await scene.happen(account.id)
        await scene.settled()
        assert await statuses(scene, inbox) == ["EXHAUSTED"]
        (delivery,) = await scene.deliveries(destination_id=inbox)
        assert await retry(scene, account.key, delivery.id) == []
        await scene.doorbell.publish(DISPATCH_CHANNEL, account.id)
        await scene.settled()
    assert await statuses(scene, inbox) == ["SUCCEEDED"]
    shown = await scene.world.data(
        "query ($id: ID!) { delivery(id: $id) { endpoint { id } attempts { outcome requestBody } } }",
        {"id": delivery.id},
        key=account.key,
    )
    outcomes = ["TIMEOUT", "TIMEOUT", "TIMEOUT", "SUCCEEDED"]
    attempts = [{"outcome": one, "requestBody": event.id} for one in outcomes]
    assert shown["delivery"] == {"endpoint": None, "attempts": attempts}
    await scene.change(Inbox, inbox, status="CLOSED")
    refused = await retry(scene, account.key, delivery.id)
    assert refused == ["This delivery's inbox is closed, so nothing can be sent to it."]


async def test_it_has_order_rates_and_replays(scene: Scene, provider: InboxProvider) -> None:
    made = await scene.world.account()
    account = made.id
    inbox = await open_inbox(scene, account, ordered=True, rate_limit=1000)
    provider.planned.append(AttemptOutcome.CONNECTION)
    async with scene.worker() as worker:
        first, second = await scene.happen(account, 2)
        await scene.settled()
        assert (await scene.row(Inbox, inbox)).held_by == worker.id
        async with scene.database.transaction() as session:
            position = first.sequence - 1
            replay = Replay(
                account_id=account, destination_id=inbox, position=position, through=second.sequence
            )
            session.add(replay)
        shown = "query ($id: ID!) { replay(id: $id) { status total done } }"
        before = await scene.world.data(shown, {"id": replay.id}, key=made.key)
        assert before["replay"]["total"] == 2
        await scene.points.wait_for("replay.committed")
        await scene.settled()
    assert [event for _, event in provider.arrived] == [first.id, first.id, second.id, first.id, second.id]
    assert len(await scene.deliveries(replay_id=replay.id)) == 2
    assert (await scene.row(Inbox, inbox)).held_by is None
    after = await scene.world.data(shown, {"id": replay.id}, key=made.key)
    assert after["replay"] == {"status": "DONE", "total": 2, "done": 2}


async def test_a_pause_is_kept_until_a_retry_ends_it(scene: Scene, provider: InboxProvider) -> None:
    account = await scene.world.account()
    inbox = await open_inbox(scene, account.id, paused_until=clock.from_ms(4_000_000_000_000))
    await scene.happen(account.id)
    async with scene.worker():
        await scene.points.wait_for("dispatch.committed")
    assert provider.arrived == []
    (delivery,) = await scene.deliveries(destination_id=inbox)
    await scene.change(Delivery, delivery.id, status="FAILED")
    assert await retry(scene, account.key, delivery.id) == []
    async with scene.worker():
        await scene.settled()
    assert await statuses(scene, inbox) == ["SUCCEEDED"]


async def test_what_waits_for_a_closed_one_is_cancelled(scene: Scene, provider: InboxProvider) -> None:
    account = await scene.account()
    inbox, beside = await open_inbox(scene, account), await open_inbox(scene, account)
    await scene.happen(account, 2)
    await Dispatcher(scene.database, scene.services.kinds, METADATA, lambda *_: None).run()
    await scene.change(Inbox, inbox, status="CLOSED")
    await Cancellation(scene.database, scene.services.kinds).run()
    assert await statuses(scene, inbox) == ["CANCELLED"] * 2
    assert await statuses(scene, beside) == ["PENDING"] * 2
    assert provider.arrived == []


async def test_its_deliveries_may_wait_for_a_batch(scene: Scene) -> None:
    account = await scene.account()
    inbox, at_once = await open_inbox(scene, account, batch="LATER"), await open_inbox(scene, account)
    await scene.happen(account)
    await Dispatcher(scene.database, scene.services.kinds, METADATA, lambda *_: None).run()
    assert [one.lane for one in await scene.deliveries(destination_id=inbox)] == [Lane.DIGEST]
    assert [one.lane for one in await scene.deliveries(destination_id=at_once)] == [Lane.FRESH]


async def test_results_that_can_never_be_recorded_in_full_end_with_the_schedule(
    scene: Scene, provider: InboxProvider
) -> None:
    account = await scene.account()
    inbox = await open_inbox(scene, account)
    provider.is_unrecordable = True
    provider.planned.extend([AttemptOutcome.CONNECTION] * 3)
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (delivery,) = await scene.deliveries(destination_id=inbox)
    assert (delivery.status, delivery.attempts_made, len(provider.arrived)) == ("EXHAUSTED", 3, 3)
    attempts = await scene.attempts(delivery.id)
    assert {one.error for one in attempts} == {"What was answered could not be stored."}


async def test_its_metrics_are_told(scene: Scene, kinds: DestinationKinds) -> None:
    account = await scene.account()
    await open_inbox(scene, account)
    process = Process(
        scene.services.settings, public_url="http://127.0.0.1:8000", with_worker=True, kinds=kinds
    )
    async with process.running():
        await scene.happen(account, 3)
        await scene.settled()
        text = bytes(process.metrics.response().body).decode()
    told = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("kind") == "inbox" and "le" not in sample.labels
    }
    assert told["voltwire_delivery_attempts_total"] == told["voltwire_deliveries_total"] == 3
    assert told["voltwire_delivery_attempt_seconds_count"] == 3
    assert (told["voltwire_deliveries_in_flight"], told["voltwire_delivery_leases_lost_total"]) == (0, 0)
    assert {"voltwire_deliveries_due", "voltwire_oldest_due_seconds"} < told.keys()
