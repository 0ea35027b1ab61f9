"""Events in quick succession are handed over together, and subscriptions get the same as one by one."""

import time

from app.core import failpoints
from app.customers import actions as customers
from app.db.database import run_script
from app.live.payload import BATCH_BYTES, Batch
from app.live.viewer_groups import EVENTS_AT_ONCE
from tests.live.listening import Collector, listening
from tests.live.test_hub import NESTED, cursor_at, owner
from tests.support import World


class Batches(Collector):
    """Also records the number of payloads of each hand-over, and is slow at the first."""

    def __init__(self, first_takes: float = 0.0) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.first_takes = first_takes

    def push(self, batch: Batch) -> bool:
        if not self.sizes:
            time.sleep(self.first_takes)  # as writing to very many sockets would
        self.sizes.append(len(batch))
        return super().push(batch)


async def test_events_of_one_commit_are_handed_over_together(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sink = Batches()
        await live.subscribe(actor, sink=sink)
        await live.customers(actor, EVENTS_AT_ONCE + 3)
        await sink.count(EVENTS_AT_ONCE + 3)
        assert sink.sizes == [EVENTS_AT_ONCE, 3]
        assert sink.sequences == list(range(2, EVENTS_AT_ONCE + 5))
        assert live.hub.stats.deliveries == EVENTS_AT_ONCE + 3


async def test_long_payloads_are_handed_over_in_parts(world: World) -> None:
    wide = " ".join(f"a{n}: customer {{ name }}" for n in range(28))
    query = f"subscription {{ events {{ ... on CustomerCreatedEvent {{ {wide} }} }} }}"
    async with listening(world) as live:
        actor = await owner(world)
        sink = Batches()
        await live.subscribe(actor, query, sink=sink)
        async with world.database.transaction() as session:
            for number in range(5):
                await run_script(
                    session, customers.create(session, actor, name="A" * 200, email=f"a{number}@example.com")
                )
        await sink.count(5)
        assert BATCH_BYTES / 3 < len(sink.payloads[0].body) < BATCH_BYTES / 2
        assert sink.sizes == [3, 2]


async def test_an_event_waits_for_the_next_only_for_a_moment(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, sink = await live.subscribe(actor, sink=Batches(first_takes=0.05))
        await live.customer(actor)
        await sink.count(1)
        # A mutation that never ends, such as one that waits for a lock.
        begun = world.services.writing.begin(actor.account_id)
        await live.customer(actor)
        await sink.count(2)
        assert sink.sequences == [2, 3]
        begun.end()


async def test_an_event_read_before_a_subscription_is_not_shown_to_it(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, early = await live.subscribe(actor, NESTED, {"after": None}, Batches(first_takes=0.05))
        await live.customer(actor)
        await early.count(1)
        begin = await cursor_at(world, actor, 2)
        begun = world.services.writing.begin(actor.account_id)
        customer = await live.customer(actor, "Bob")
        async with world.database.transaction() as session:
            await run_script(session, customers.update(actor, customer.id, {"name": "Bob King"}))
        _, late = await live.subscribe(actor, NESTED, {"after": begin})
        (response,) = await late.count(1)
        assert response["data"]["events"]["customer"]["name"] == "Bob King"
        await early.count(2)
        assert early.sequences == [2, 3]
        begun.end()


async def test_mutations_say_that_they_are_under_way(world: World) -> None:
    account = await world.account()
    writing, told = world.services.writing, list[bool]()
    during: set[bool] = set()
    world.database.on_commit(lambda _: told.append(writing.is_expected(account.id)))
    create = """mutation($email: String!) {
      createCustomer(input: {name: "Ada", email: $email}) { userErrors { code } }
    }"""

    def look(point: str) -> None:
        if point == "log.written":
            during.add(writing.is_expected(account.id))

    failpoints.watchers.append(look)
    try:
        for _ in range(2):
            await world.data(create, {"email": "ada@example.com"}, key=account.key)
    finally:
        failpoints.watchers.remove(look)
    # The hub is told when the first one makes no event any more, and nothing of the second one, which was refused.
    assert (during, told) == ({True}, [False])
    assert not writing.is_expected(account.id)
