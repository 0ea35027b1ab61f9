"""A server is killed at every named point of mutation, publish, dispatch and send: no event and no delivery is lost."""

import random
import re
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.core.ids import new_id
from app.customers.events import CUSTOMER_EXAMPLE, CustomerCreated
from app.db.database import run_script
from app.delivery.destinations.email.models import Digest, EmailSubscription, EmailSubscriptionStatus
from app.delivery.queue.dispatch import delivery_row, insert_deliveries
from app.delivery.queue.leases import CANCELLED_AT_ONCE
from app.delivery.queue.models import Delivery, DeliveryStatus, Lane
from app.events import log
from app.events.models import EventRecord, Stream
from tests.system.clients import eventually
from tests.system.faults.load import Load
from tests.system.faults.oracle import rows
from tests.system.faults.rig import ROOT, Rig, Tenant
from tests.system.faults.running import buried, live, recover
from tests.system.faults.test_feed_chaos import POINTS as FEED_POINTS
from tests.system.faults.test_import_crashes import POINTS as IMPORT_POINTS
from tests.system.faults.test_import_crashes import UNDO_POINTS

CHANGES = {"createCustomer": 4, "createMeter": 2, "createHostedConsent": 1}
MAILS = {"createCustomer": 2, "createEmailSubscription": 1}
REPLAYS = {"createCustomer": 4, "replayEvents": 1}

# Each with what is asked for meanwhile; the point must come up all the time.
POINTS = {
    "mutation.execute": CHANGES,
    "log.before_write": CHANGES,
    "log.written": CHANGES,
    "transaction.before_commit": CHANGES,
    "transaction.committed": CHANGES,
    "publish.before": CHANGES,
    "publish.done": CHANGES,
    "subscription.execute": CHANGES,
    "dispatch.before_commit": CHANGES,
    "dispatch.committed": CHANGES,
    "send.claimed": CHANGES,
    "send.before_request": CHANGES,
    "send.response": CHANGES,
    "send.before_record": CHANGES,
    "send.recorded": CHANGES,
    "mail.claimed": MAILS,
    "mail.sent": MAILS,
    "mail.recorded": MAILS,
    "replay.before_commit": REPLAYS,
    "replay.committed": REPLAYS,
}
DIGESTS = {"digest.picked", "digest.claimed", "digest.sent", "digest.recorded"}
BELOW = {
    "housekeeping.before_commit",
    "carry_over.before_commit",
    "cancellation.page",
    "cancellation.counted",
    *DIGESTS,
    *IMPORT_POINTS,
    *UNDO_POINTS,
    "import.file_kept",
    "import.meters_created",
    *FEED_POINTS,
    "feed.failure_recorded",
    "feed.attention_recorded",
    *(f"{sweep}.{point}" for sweep in ("expiries", "silences") for point in ("before_commit", "committed")),
}
"""Points that do not come up all the time have tests of their own."""


def test_no_point_is_forgotten() -> None:
    source = "\n".join(path.read_text() for path in sorted((ROOT / "app").rglob("*.py")))
    named = set(re.findall(r'points\.reach\("([a-z_.]+)"\)', source))
    by_operation = {f"{kind}.execute" for kind in ("mutation", "subscription")}
    assert named | by_operation == POINTS.keys() | BELOW


@pytest.mark.long(keep=16)
@pytest.mark.parametrize("point", POINTS)
async def test_a_server_killed_at_a_point_loses_nothing(rig: Rig, point: str) -> None:
    chance = random.Random(point)
    load = Load(await rig.tenant(), chance, POINTS[point])
    for arrival in (1, chance.randint(2, 12)):
        left = await live(rig, [load], await rig.start(point, arrival))
        assert left.killed
    await recover(rig, [load])


async def test_a_server_killed_while_it_trims_leaves_the_log_whole(rig: Rig) -> None:
    tenant = await rig.tenant()
    load = Load(tenant, random.Random(7), {"createCustomer": 1})
    await live(rig, [load], await rig.start("send.recorded", 12))
    await recover(rig, [load])
    events = await rows(rig, EventRecord, tenant.id)
    old = len(events) - 3
    async with rig.database.transaction() as session:
        await session.execute(
            update(EventRecord)
            .where(col(EventRecord.account_id) == tenant.id, col(EventRecord.sequence) <= old)
            .values(occurred_at=clock.now() - timedelta(days=100))
        )
    left = await live(rig, [], await rig.start("housekeeping.before_commit"))
    assert left.killed
    assert await rows(rig, EventRecord, tenant.id) != []
    assert len(await rows(rig, EventRecord, tenant.id)) == len(events)
    deliveries = await rows(rig, Delivery, tenant.id)

    left = await live(rig, [], await rig.start("housekeeping.before_commit", 2))
    assert left.killed
    (stream,) = await rows(rig, Stream, tenant.id)
    kept = await rows(rig, EventRecord, tenant.id)
    assert [event.sequence for event in kept] == list(range(old + 1, len(events) + 1))
    assert (stream.first_sequence, stream.last_sequence) == (old + 1, len(events))
    assert await rows(rig, Delivery, tenant.id) == [one for one in deliveries if one.event_sequence > old]


async def happen(rig: Rig, tenant: Tenant, count: int) -> list[EventRecord]:
    """Append the events of `count` new customers, without their rows; gives the events."""
    async with rig.database.transaction() as session:
        for _ in range(count):
            content = {**CUSTOMER_EXAMPLE, "id": new_id("cus")}
            log.append(session, tenant.id, CustomerCreated.model_validate(content))
    return (await rows(rig, EventRecord, tenant.id))[-count:]


async def settled(rig: Rig) -> None:
    """Let a clean server finish all that waits."""
    await rig.run_out_leases()
    clean = await rig.start()
    async with buried(rig, clean):
        assert await clean.ready()
        await rig.settled()
        assert await clean.terminate() == 0


@pytest.mark.parametrize("point", sorted(DIGESTS))
async def test_a_server_killed_over_a_digest_sends_no_other_mail(rig: Rig, point: str) -> None:
    tenant = await rig.tenant()
    async with rig.database.transaction() as session:
        subscription = await session.get_one(EmailSubscription, tenant.subscription_id)
        subscription.digest = Digest.HOURLY.value
    events = await happen(rig, tenant, 3)
    waiting = (col(Delivery.destination_id) == tenant.subscription_id, col(Delivery.lane) == Lane.DIGEST)

    async def dispatched() -> bool:
        found = await rows(rig, Delivery, tenant.id)
        return len([one for one in found if one.lane == Lane.DIGEST]) == len(events)

    server = await rig.start()
    async with buried(rig, server):
        await eventually(dispatched)
    # An hour passes.
    async with rig.database.transaction() as session:
        await session.execute(update(Delivery).where(*waiting).values(due_at=clock.now()))
    await rig.run_out_leases()
    left = await live(rig, [], await rig.start(point))
    assert left.killed
    await settled(rig)

    digest = [one for one in await rows(rig, Delivery, tenant.id) if one.lane == Lane.DIGEST]
    assert [one.event_id for one in digest] == [event.id for event in events]
    told = {(one.status, one.attempts_made, one.digest_id) for one in digest}
    assert told == {(DeliveryStatus.SUCCEEDED.value, 1, digest[0].id)}
    sent = Counter(one for incarnation in rig.incarnations for one in incarnation.mails)
    # A folder keeps each mail once.
    twice = point == "digest.sent" and rig.sink is not None
    assert [sent[one.id] for one in digest] == [2 if twice else 1, 0, 0]
    assert rig.problems() == []


async def test_a_server_killed_while_it_sweeps_leaves_nothing_waiting(rig: Rig) -> None:
    tenant = await rig.tenant()
    (event,) = await happen(rig, tenant, 1)
    # What nobody looks at before its hour: only the sweep finds it.
    later = {"lane": Lane.DIGEST, "due_at": clock.to_ms(clock.now() + timedelta(hours=1))}
    made = [
        delivery_row(tenant.id, event, tenant.subscription_id) | later | {"event_id": f"{event.id}.{number}"}
        for number in range(2 * CANCELLED_AT_ONCE + 1)
    ]
    async with rig.database.transaction() as session:
        await run_script(session, insert_deliveries(made))
        subscription = await session.get_one(EmailSubscription, tenant.subscription_id)
        subscription.status = EmailSubscriptionStatus.UNSUBSCRIBED.value
    left = await live(rig, [], await rig.start("cancellation.page"))
    assert left.killed
    await settled(rig)
    found = await rows(rig, Delivery, tenant.id)
    statuses = Counter(one.status for one in found if one.destination_id == tenant.subscription_id)
    assert statuses == {DeliveryStatus.CANCELLED.value: len(made)}
    assert rig.problems() == []
