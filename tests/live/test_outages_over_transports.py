"""Events that wait for a database that is away, over a real WebSocket and a real event stream."""

import pytest

from tests.core.noted import failures_noted
from tests.events.broadcasters import becomes
from tests.graphql.serving import serving
from tests.live.event_streams import stream
from tests.live.outages import Attempts, watched
from tests.services.postgres import Postgres
from tests.support import world as open_world

# The nested object cannot be read without the database.
NESTED = """subscription { events { sequence cursor
    ... on CustomerCreatedEvent { customer { meters(first: 5) { nodes { number } } } } } }"""


@pytest.mark.parametrize("frames", [True, False], ids=["frames", "asgi"])
async def test_events_wait_for_the_database_and_arrive_without_a_gap(
    own_postgres: Postgres, frames: bool
) -> None:
    own_postgres.start()
    url = await own_postgres.create_database()
    async with (
        open_world(url) as world,
        serving(world, frames=frames, poll_interval=0.2) as served,
    ):
        account = await world.account()
        owner = (await world.authenticator.authenticate(account.key)).actor
        hub = served.connections.hub
        async with served.connect(account.key) as client, stream(served, account.key, NESTED) as reader:
            await client.subscribe(NESTED)
            await served.subscriptions(2)
            with failures_noted() as noted, watched(Attempts(own_postgres.kill)) as attempts:
                await served.hub.customers(owner, 3)
                # Both have met the failed event in the log as well.
                await becomes(lambda: all(one.retry for group in hub._groups() for one in group.members))
                assert attempts.count > 0
                # The socket was sent nothing.
                await client.settled()
                own_postgres.start()
                messages = [await client.hear() for _ in range(3)]
                blocks = [await reader.event() for _ in range(3)]
            assert noted.total() > 0
            await served.hub.customer(owner)
            messages.append(await client.hear())
            blocks.append(await reader.event())
        events = [
            {"sequence": sequence, "cursor": cursor, "customer": {"meters": {"nodes": []}}}
            for sequence, (cursor, _) in zip(range(2, 6), blocks, strict=True)
        ]
        responses = [{"data": {"events": event}} for event in events]
        assert messages == [{"id": "1", "type": "next", "payload": response} for response in responses]
        assert [response for _, response in blocks] == responses
