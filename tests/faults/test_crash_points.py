"""A server is killed at every named point of mutation, publish, dispatch and send: no event and no delivery is lost."""

import random
import re
from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlmodel import col

from app import clock
from app.delivery.models import Delivery
from app.events.models import EventRecord, Stream
from tests.faults.load import Load
from tests.faults.oracle import rows
from tests.faults.rig import ROOT, Rig
from tests.faults.running import live, recover

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
    "replay.before_commit": REPLAYS,
    "replay.committed": REPLAYS,
}
ELSEWHERE = {
    # Tested below.
    "housekeeping.before_commit",
    # Comes up only where thousands of deliveries are cancelled.
    "sweep.page",
    # Comes up once an hour; the digests' own tests let that hour pass.
    "digest.claimed",
    "digest.recorded",
}


def test_no_point_is_forgotten() -> None:
    source = "\n".join(path.read_text() for path in sorted((ROOT / "app").rglob("*.py")))
    named = set(re.findall(r'points\.reach\("([a-z_.]+)"\)', source))
    by_operation = {f"{kind}.execute" for kind in ("mutation", "subscription")}
    assert named | by_operation == POINTS.keys() | ELSEWHERE


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
