"""Workers that stand still until their leases have run out and then go on: others take over, and nothing goes wrong."""

from pathlib import Path

from sqlalchemy import text

from app.db.engine import IDLE_SECONDS
from app.delivery.destinations.webhook.models import WebhookEndpoint
from tests.delivery.battery import arrivals, ended
from tests.delivery.scene import open_scene
from tests.services.receiver import Receiver
from tests.system.faults.workers import sleeper

# So that a lease is six seconds, and no answer is late on a busy machine.
TIMEOUT = 2


async def test_workers_that_stand_still_past_their_leases(
    postgres_url: str, receiver: Receiver, tmp_path: Path
) -> None:
    async with open_scene(postgres_url, webhook_timeout=TIMEOUT) as scene:
        async with scene.database.reading() as session:
            shown = await session.execute(text("SHOW idle_in_transaction_session_timeout"))
            assert shown.scalar_one() == f"{IDLE_SECONDS}s"
        account = await scene.account()
        homes = {
            "/plain": await scene.endpoint(account, receiver.url("/plain")),
            "/ordered": await scene.endpoint(account, receiver.url("/ordered"), ordered=True),
            "/paced": await scene.endpoint(account, receiver.url("/paced"), rate_limit=50),
        }
        events = await scene.happen(account, 15)
        # One stands still with answers that it has not written down and claims that it has not sent, the other in a
        # transaction, so that its locks are held as well.
        async with sleeper(scene, tmp_path, "send.response", 3) as answered:
            await answered.stopped()
            events += await scene.happen(account, 5)
            async with sleeper(scene, tmp_path, "dispatch.before_commit", 1) as dispatching:
                await dispatching.stopped()
                async with scene.worker() as worker:
                    await scene.settled()
                    answered.go_on()
                    dispatching.go_on()
                    events += await scene.happen(account, 5)
                    await scene.settled()
                    assert worker.senders["webhook"].stats.leases_lost == 0
                assert [await one.terminate() for one in (answered, dispatching)] == [0, 0]
            lost = sum(len(one.told("delivery_lease_lost")) for one in (answered, dispatching))

        again = 0
        for path, endpoint in homes.items():
            told = await ended(scene, endpoint.id, events)
            assert told == [("SUCCEEDED", [("SUCCEEDED", 204)])] * 25
            # What the sleepers had to say came too late to speak against the endpoint.
            row = await scene.row(WebhookEndpoint, endpoint.id)
            assert (row.failures, row.failing_since) == (0, None)
            came = arrivals(receiver.to(path), events, endpoint.secret)
            assert min(came) == 1
            again += sum(came) - len(came)
    # What came twice had been taken over, as who had sent it before was told.
    assert 1 <= again <= lost
    ordered = [one.headers["webhook-id"] for one in receiver.to("/ordered")]
    assert list(dict.fromkeys(ordered)) == [event.id for event in events]
