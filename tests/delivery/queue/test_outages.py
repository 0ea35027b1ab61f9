"""Results in hand while the database is away are recorded first, and their deliveries are not sent again."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import text, update
from sqlmodel import col

from app.core import clock
from app.delivery.destinations.email.digests import Digests
from app.delivery.destinations.email.kind import EMAIL
from app.delivery.destinations.email.provider import EmailProvider
from app.delivery.destinations.kinds import KINDS
from app.delivery.metadata import METADATA
from app.delivery.queue.destination_queue import FIRST_LIMIT
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.models import Delivery, Lane
from app.outbound.lease_times import lease_seconds, queue_seconds
from app.outbound.mail.mailer import open_mailer
from app.outbound.mail.models import TransactionalMail
from app.outbound.mail.sender import MailSender
from app.server.wording import WORDING
from tests.delivery.asking import outgoing_done, queue_mail
from tests.delivery.battery import ended
from tests.delivery.outages import away
from tests.delivery.scene import Scene, open_scene
from tests.services.receiver import Answer, Receiver, Request
from tests.services.smtp import SmtpSink

pytestmark = pytest.mark.both_databases

TIMEOUT = 1.0
EVENTS = 30


@pytest.fixture
async def scene(migrated_url: str, smtp_sink: SmtpSink) -> AsyncIterator[Scene]:
    settings = {
        "smtp_url": smtp_sink.url,
        "mail_from": "Voltwire <events@mail.example>",
        "webhook_timeout": TIMEOUT,
        "webhook_retry_schedule": [0.1] * 20,
    }
    async with open_scene(migrated_url, **settings) as opened:
        yield opened


@pytest.mark.parametrize("workers", [1, 2])
async def test_results_in_hand_outlast_their_leases(scene: Scene, receiver: Receiver, workers: int) -> None:
    receiver.default = Answer(hold=True)
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    in_hand = int(FIRST_LIMIT) * workers
    async with AsyncExitStack() as stack:
        working = [await stack.enter_async_context(scene.worker()) for _ in range(workers)]
        events = await scene.happen(account, EVENTS)
        await receiver.wait_for(in_hand)
        async with away(scene.services.settings.database):
            receiver.release()
            await scene.points.wait_for("send.response", in_hand)
            # A lease is real time in the database.
            await asyncio.sleep(lease_seconds(TIMEOUT))
        await scene.settled()
    told = await ended(scene, endpoint.id, events)
    assert {status for status, _ in told} == {"SUCCEEDED"}
    came = Counter(request.headers["webhook-id"] for request in receiver.requests)
    again = [came[event.id] - len(tries) for event, (_, tries) in zip(events, told, strict=True)]
    # A delivery came twice only if the other worker had taken it over, which the first worker counted.
    assert set(again) <= ({0} if workers == 1 else {0, 1})
    assert sum(again) == sum(worker.senders["webhook"].stats.leases_lost for worker in working)


async def test_mails_in_hand_outlast_their_leases(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.hold()
    account = await scene.account()
    await scene.subscription(account, "ada@example.com")
    await wait_for_a_digest(scene)
    await queue_mail(scene.world, account, "eve@example.com")
    async with scene.worker():
        await scene.happen(account)
        await smtp_sink.attempts.wait_for(3)
        await scene.run_out_leases()
        # The next claims pass over deliveries under way, and take the new.
        await scene.happen(account)
        await queue_mail(scene.world, account, "fay@example.com")
        await smtp_sink.attempts.wait_for(5)
        async with away(scene.services.settings.database):
            smtp_sink.release()
            for point, count in {"send.response": 2, "digest.sent": 1, "mail.sent": 2}.items():
                await scene.points.wait_for(point, count)
        await scene.settled()
        await scene.until(lambda: outgoing_done(scene.world))
    came = Counter(recipient for mail in smtp_sink.mails for recipient in mail.recipients)
    assert came == {"ada@example.com": 2, "bob@example.com": 1, "eve@example.com": 1, "fay@example.com": 1}
    assert [(one.status, one.attempts_made) for one in await scene.deliveries()] == [("SUCCEEDED", 1)] * 3


async def test_a_digest_in_hand_outlasts_its_lease(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.hold()
    await wait_for_a_digest(scene)
    async with sending_digests(scene, smtp_sink) as digests:
        await smtp_sink.attempts.wait_for(1)
        async with away(scene.services.settings.database):
            smtp_sink.release()
            await scene.points.wait_for("digest.sent")
            await asyncio.sleep(lease_seconds(TIMEOUT))
        await scene.points.wait_for("digest.recorded")
    assert (len(smtp_sink.mails), digests.stats.leases_lost) == (1, 0)
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made, delivery.fence) == ("SUCCEEDED", 1, 1)


async def test_a_digest_whose_lease_nears_its_end_is_given_back(scene: Scene, smtp_sink: SmtpSink) -> None:
    await wait_for_a_digest(scene)

    def stand_still() -> None:
        del scene.points.on["digest.claimed"]
        time.sleep(queue_seconds(TIMEOUT) + 0.1)

    scene.points.on["digest.claimed"] = stand_still
    async with sending_digests(scene, smtp_sink):
        await scene.points.wait_for("digest.recorded")
    assert len(smtp_sink.mails) == 1
    (delivery,) = await scene.deliveries()
    assert (delivery.status, delivery.attempts_made, delivery.fence) == ("SUCCEEDED", 1, 2)


async def test_a_result_that_the_database_refuses_holds_up_no_other(scene: Scene, receiver: Receiver) -> None:
    def answer(request: Request) -> Answer:
        said = request.json()["data"]["name"]
        return Answer(418) if said == "refused" else Answer(200, body=said.encode())

    receiver.on("/", answer)
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url())
    names = ["plain"] * 5 + ["refused", "unsayable"] + ["plain"] * 5
    events = [event for name in names for event in await scene.happen(account, name=name)]
    await refuse(scene, "delivery_attempts", "INSERT", "NEW.response_status = 418")
    await refuse(scene, "delivery_attempts", "INSERT", "NEW.response_body = 'unsayable'")
    async with scene.worker() as worker:
        await scene.until(lambda: made(scene, 11, status="SUCCEEDED"))
        await scene.until(lambda: made(scene, 1, status="FAILED"))
        assert (worker.failures, worker.senders["webhook"].stats.leases_lost) == (0, 0)
        receiver.on("/", 204)
        await scene.settled()
    for name, (status, tries) in zip(names, await ended(scene, endpoint.id, events), strict=True):
        is_refused = name == "refused"
        assert (status, tries[-1]) == ("SUCCEEDED", ("SUCCEEDED", 204 if is_refused else 200))
        # Of an attempt that the database refuses the outcome is recorded, so that it counts.
        assert set(tries[:-1]) == ({("HTTP_STATUS", None)} if is_refused else set())
    said = [(await scene.attempts(one.id))[-1].response_body for one in await scene.deliveries()]
    assert said == [None if name == "unsayable" else "" if name == "refused" else name for name in names]


async def test_a_reply_that_the_database_refuses_is_recorded_without_its_words(
    scene: Scene, smtp_sink: SmtpSink
) -> None:
    smtp_sink.refuse("eve@example.com", "450 4.2.0 unsayable", times=1)
    await refuse(scene, "outgoing_mails", "UPDATE", "NEW.error LIKE '%unsayable%'")
    mail_id = await queue_mail(scene.world, await scene.account(), "eve@example.com")
    async with scene.worker() as worker:
        await scene.until(lambda: outgoing_done(scene.world))
        assert worker.failures == 0
    assert list(smtp_sink.attempts) == ["eve@example.com"] * 2
    mail = await scene.row(TransactionalMail, mail_id)
    assert (mail.attempts_made, mail.content_encrypted, mail.error) == (2, None, None)


async def refuse(scene: Scene, table: str, change: str, condition: str) -> None:
    """Let the database refuse such rows of a table."""
    name = f"refuse_{uuid.uuid4().hex}"
    trigger = f"CREATE TRIGGER {name} BEFORE {change} ON {table} FOR EACH ROW WHEN ({condition})"
    async with scene.database.transaction() as session:
        if scene.database.is_sqlite:
            await session.execute(text(f"{trigger} BEGIN SELECT RAISE(ABORT, 'refused'); END"))
            return
        raises = "BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'data_exception'; END"
        await session.execute(
            text(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${raises}$$")
        )
        await session.execute(text(f"{trigger} EXECUTE FUNCTION {name}()"))


async def made(scene: Scene, count: int, **values: object) -> bool:
    return len(await scene.deliveries(**values)) == count


async def make_digests_due(scene: Scene) -> None:
    async with scene.database.transaction() as session:
        waiting = col(Delivery.lane) == Lane.DIGEST
        await session.execute(update(Delivery).where(waiting).values(due_at=clock.from_ms(0)))


async def wait_for_a_digest(scene: Scene) -> None:
    """Make a delivery due as a digest, while no worker runs."""
    account = await scene.account()
    await scene.subscription(account, "bob@example.com", digest="HOURLY")
    await scene.happen(account)
    await Dispatcher(scene.database, KINDS, METADATA, lambda *_: None).run()
    await make_digests_due(scene)


@asynccontextmanager
async def sending_digests(scene: Scene, smtp_sink: SmtpSink) -> AsyncIterator[Digests]:
    """Send digests only, with short leases."""
    mailer = open_mailer(smtp_sink.url, scene.services.settings.data_dir, None)
    sender = MailSender(mailer, "Voltwire <events@mail.example>")
    provider = EmailProvider(scene.services.mail_links, sender, WORDING)
    provider.timeout = TIMEOUT
    digests = Digests(scene.database, EMAIL, provider, [0.1] * 20)
    running = asyncio.create_task(digests.run())
    try:
        yield digests
    finally:
        digests.stop(0)
        await running
        await mailer.aclose()
