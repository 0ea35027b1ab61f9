"""The metrics of a worker's deliveries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from app.core import clock
from app.core.settings import Settings
from app.delivery.destinations.kinds import KINDS
from app.delivery.metadata import METADATA
from app.delivery.queue import leases
from app.delivery.queue.destination_queue import FIRST_LIMIT
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.models import Delivery, Lane
from app.outbound.mail.mail_queue import enqueue
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.rendering import Mail
from app.outbound.mail.sender import MOST_TO_ONE
from app.server.process import Process
from tests.delivery.scene import Scene, open_scene
from tests.services.receiver import Answer, Receiver
from tests.services.smtp import SmtpSink
from tests.support import SECRET

pytestmark = pytest.mark.both_databases

WAITING = 10
IN_FLIGHT = {
    "webhook": int(FIRST_LIMIT),
    "email": MOST_TO_ONE,
    "digest": WAITING,
    "transactional": MOST_TO_ONE,
}
"""Attempts in flight at once, by kind."""

ARRIVING = {
    "webhook": int(FIRST_LIMIT),
    "email": MOST_TO_ONE,
    "digest": 1,
    "transactional": MOST_TO_ONE,
}
"""The least number of requests or recipients that reach a server that hangs, by kind."""

RECORDED = {
    "webhook": "send.recorded",
    "email": "send.recorded",
    "digest": "digest.recorded",
    "transactional": "mail.recorded",
}
HOUR = 3600


def told(process: Process) -> dict[tuple[str, str], float]:
    """Values of the metrics about deliveries, by name and kind."""
    text = bytes(process.metrics.response().body).decode()
    return {
        (sample.name, sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "kind" in sample.labels and "le" not in sample.labels
    }


async def test_attempts_are_timed_and_what_is_due_is_counted(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path / 'voltwire.db'}"
    settings = Settings(
        database_url=url, secret_key=SECRET, data_dir=tmp_path, webhook_allow_networks=["127.0.0.0/8"]
    )
    async with open_scene(url) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url())
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        async with process.running():
            await scene.happen(account, 3)
            await scene.settled()
            told_after = told(process)
    assert told_after["voltwire_delivery_attempt_seconds_count", "webhook"] == 3
    assert told_after["voltwire_delivery_attempts_total", "webhook"] == 3
    assert told_after["voltwire_deliveries_total", "webhook"] == 3
    assert told_after["voltwire_deliveries_in_flight", "webhook"] == 0
    assert told_after["voltwire_oldest_due_seconds", "email"] == 0


async def wait_for_an_hour(scene: Scene, receiver: Receiver, kind: str, count: int) -> None:
    """Make `count` deliveries of this kind that have been due for an hour."""
    account = await scene.account()
    if kind == "transactional":
        mail = Mail("Your code", "It is 123456.", "<p>It is 123456.</p>")
        async with scene.database.transaction() as session:
            for _ in range(count):
                enqueue(session, scene.services.keyring, account, "ada@example.com", mail)
    elif kind == "webhook":
        await scene.endpoint(account, receiver.url())
    else:
        digest = "HOURLY" if kind == "digest" else "IMMEDIATE"
        await scene.subscription(account, "ada@example.com", digest=digest)
    if kind != "transactional":
        await scene.happen(account, count)
        await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
    due_at = clock.now() - timedelta(seconds=HOUR)
    async with scene.database.transaction() as session:
        for model in (Delivery, TransactionalMail):
            await session.execute(update(model).values(due_at=due_at))


@asynccontextmanager
async def hanging(
    url: str, tmp_path: Path, receiver: Receiver, smtp_sink: SmtpSink, kind: str, count: int
) -> AsyncIterator[tuple[Scene, Process]]:
    """Run a process whose attempts, at deliveries due for an hour, last until the servers let go."""
    settings = Settings(
        database_url=url,
        secret_key=SECRET,
        data_dir=tmp_path,
        webhook_allow_networks=["127.0.0.0/8"],
        smtp_url=smtp_sink.url,
    )
    receiver.default = Answer(hold=True)
    smtp_sink.hold()
    async with open_scene(url) as scene:
        await wait_for_an_hour(scene, receiver, kind, count)
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        async with process.running():
            asked = receiver.requests if kind == "webhook" else smtp_sink.attempts
            await asked.wait_for(min(ARRIVING[kind], count))
            yield scene, process


@pytest.mark.parametrize("kind", IN_FLIGHT)
async def test_what_is_due_and_under_way_is_told_by_kind(
    migrated_url: str, tmp_path: Path, receiver: Receiver, smtp_sink: SmtpSink, kind: str
) -> None:
    async with hanging(migrated_url, tmp_path, receiver, smtp_sink, kind, WAITING) as (scene, process):
        await scene.points.wait_for("cancellation.counted")
        before = told(process)
        receiver.release()
        smtp_sink.release()
        if kind == "transactional":
            await scene.points.wait_for("mail.recorded", WAITING)
        await scene.settled()
        after = told(process)
    gauges = [
        "voltwire_deliveries_in_flight",
        "voltwire_deliveries_due",
        "voltwire_oldest_due_seconds",
    ]
    in_flight, due, oldest = (before[name, kind] for name in gauges)
    assert (in_flight, due) == (IN_FLIGHT[kind], WAITING)
    assert oldest >= HOUR
    others = IN_FLIGHT.keys() - {kind}
    assert {before[name, other] for name in gauges for other in others} == {0}
    assert after["voltwire_deliveries_in_flight", kind] == 0
    assert after["voltwire_delivery_attempts_total", kind] == WAITING
    assert after["voltwire_deliveries_total", kind] == WAITING
    # A digest is one mail, however much is in it.
    assert after["voltwire_delivery_attempt_seconds_count", kind] == (1 if kind == "digest" else WAITING)
    assert {after["voltwire_delivery_leases_lost_total", one] for one in IN_FLIGHT} == {0}


@pytest.mark.parametrize("kind", RECORDED)
async def test_attempts_that_others_took_over_are_told_by_kind(
    migrated_url: str, tmp_path: Path, receiver: Receiver, smtp_sink: SmtpSink, kind: str
) -> None:
    async with hanging(migrated_url, tmp_path, receiver, smtp_sink, kind, 1) as (scene, process):
        # As a claim by someone else does.
        async with scene.database.transaction() as session:
            for model in (Delivery, TransactionalMail):
                await session.execute(update(model).values(fence=model.fence + 1))
        receiver.release()
        smtp_sink.release()
        await scene.points.wait_for(RECORDED[kind])
        counts = {one: told(process)["voltwire_delivery_leases_lost_total", one] for one in RECORDED}
    assert counts == dict.fromkeys(RECORDED, 0) | {kind: 1}


async def test_what_is_due_is_counted_by_kind(migrated_url: str) -> None:
    async with open_scene(migrated_url) as scene:
        account = await scene.account()
        await scene.endpoint(account, "https://example.com/")
        await scene.subscription(account, "ada@example.com")
        await scene.subscription(account, "bob@example.com", digest="DAILY")
        await scene.happen(account, 2)
        await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
        async with scene.database.reading() as session:
            counts = [await leases.count_due(session, prefix) for prefix in ("whe", "ems")]
            digests = await leases.count_due(session, "ems", [Lane.DIGEST])
    # A delivery that waits for its digest is not due.
    assert (counts, digests) == ([2, 2], 0)
