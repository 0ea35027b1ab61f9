"""Random bursts, rollbacks, slow readers and reconnections, all at once."""

import asyncio
import random

import pytest

from app.auth.actor import Actor
from app.customers import actions as customers
from app.db.database import run_script
from app.events import cursors, log
from tests.live.listening import Collector, Listening, listening
from tests.support import World

pytestmark = pytest.mark.both_databases


class Rollback(Exception):
    pass


class Reader:
    """Subscribes again and again after its last cursor, like a client that loses its connection."""

    def __init__(self, live: Listening, actor: Actor, chance: random.Random, begin: str) -> None:
        self.live, self.actor, self.chance, self.cursor = live, actor, chance, begin
        self.sequences: list[int] = []

    async def read(self, through: int) -> None:
        while not self.sequences or self.sequences[-1] < through:
            await self._connection(through)

    async def _connection(self, through: int) -> None:
        sink = Collector(capacity=self.chance.choice([None, 1, 2, 10, 50]))
        lasts = self.chance.randrange(1, 120)
        subscription, _ = await self.live.subscribe(self.actor, sink=sink, variables={"after": self.cursor})
        taken = 0
        while taken < lasts and not (sink.payloads and sink.payloads[-1].sequence == through):
            await sink.until(lambda: sink.waiting > 0)
            if self.chance.random() < 0.3:
                await asyncio.sleep(self.chance.uniform(0, 0.01))
            count = min(sink.waiting, self.chance.randrange(1, 20))
            taken += count
            sink.take(count)
        subscription.end()
        assert sink.errors is None
        self.sequences += sink.sequences
        self.cursor = sink.payloads[-1].cursor


async def roll_back(live: Listening, actor: Actor) -> None:
    async with live.world.database.transaction() as session:
        await run_script(session, customers.create(session, actor, name="Nobody", email="nobody@example.com"))
        raise Rollback


async def write(live: Listening, actor: Actor, chance: random.Random, events: int) -> None:
    left = events
    while left:
        count = min(left, chance.choice([1, 1, 1, 2, 5, 30, 150, 400]))
        if chance.random() < 0.2:
            with pytest.raises(Rollback):
                await roll_back(live, actor)
        await live.customers(actor, count)
        left -= count
        await asyncio.sleep(chance.uniform(0, 0.03))


@pytest.mark.long(keep=2, of="turn")
@pytest.mark.parametrize("turn", range(20))
@pytest.mark.parametrize("told", ["directly", "by the doorbell", "by nobody"])
async def test_every_reader_gets_everything_once_and_in_order(
    world: World, told: str, turn: int, seed: str
) -> None:
    chance = random.Random(seed)
    rings = told != "by nobody"
    async with listening(world, rings=rings, local=told == "directly", poll_interval=0.05) as live:
        account = await world.account()
        actor = (await world.authenticator.authenticate(account.key)).actor
        async with world.database.reading() as session:
            stream = await log.stream(session, actor.account_id)
        begin = cursors.encode(world.services.keyring, actor.account_id, stream.epoch, 0)
        events = 800
        readers = [Reader(live, actor, chance, begin) for _ in range(15)]
        await asyncio.gather(
            write(live, actor, chance, events), *(reader.read(events + 1) for reader in readers)
        )
        for reader in readers:
            assert reader.sequences == list(range(1, events + 2))
        assert live.hub.subscriptions == 0
