"""Sinks that keep up are written to directly; the others get the same payloads in another way, once."""

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from app.auth.actor import Actor
from app.live.fan_out import PUSHES_PER_TURN
from app.live.payload import Batch
from app.live.sink import DirectWriter
from app.live.subscription import Subscription
from tests.live.listening import SEQUENCES, Collector, Listening, listening
from tests.live.test_hub import owner
from tests.support import World


class DirectSink(Collector):
    """Records written and pushed payloads in one order; `on_write` is called before the first write is recorded."""

    def __init__(self, key: str = "one") -> None:
        super().__init__()
        self.key = key
        self.is_open = True
        self.subscription: Subscription | None = None
        self.got: list[int] = []
        self.pushed: list[int] = []
        self.on_write: Callable[[], None] | None = None

    @property
    def direct_writer(self) -> DirectWriter | None:  # type: ignore[override]
        return DirectWriter(self.key, encoded, self._write) if self.is_open else None

    def _write(self, frames: bytes) -> None:
        on_write, self.on_write = self.on_write, None
        if on_write is not None:
            on_write()
        self.got += map(int, frames.split())
        self.changed.set()

    def push(self, batch: Batch) -> bool:
        self.got += [payload.sequence for payload in batch]
        self.pushed += [payload.sequence for payload in batch]
        return super().push(batch)

    def switch(self, is_open: bool) -> None:
        """Direct writing becomes possible, or impossible."""
        self.is_open = is_open
        assert self.subscription is not None
        self.subscription.update_writer()

    async def sees(self, *sequences: int) -> None:
        await self.until(lambda: len(self.got) >= len(sequences))
        assert self.got == list(sequences)


def encoded(batch: Batch) -> bytes:
    return b" ".join(b"%d" % payload.sequence for payload in batch)


async def direct_sinks(live: Listening, actor: Actor, *keys: str) -> list[DirectSink]:
    sinks = [DirectSink(key) for key in keys]
    for sink in sinks:
        sink.subscription, _ = await live.subscribe(actor, SEQUENCES, sink=sink)
    return sinks


async def test_equal_writers_get_one_encoded_batch(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sinks = await direct_sinks(live, actor, "one", "one", "two")
        written: list[bytes] = []
        for sink in sinks:
            sink._write = written.append  # type: ignore[assignment, method-assign]
            sink.switch(True)
        await live.customers(actor, 2)
        await live.customer(actor)
        (last,) = await direct_sinks(live, actor, "last")
        await live.customer(actor)
        await last.sees(5)
        assert [sequence for one in written[::3] for sequence in one.split()] == [b"2", b"3", b"4", b"5"]
        assert written[0] is written[1]
        assert [sink.pushed for sink in sinks] == [[], [], []]


async def test_a_direct_writer_that_is_lost_meanwhile_is_not_written_to(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        first, lost, ended = await direct_sinks(live, actor, "one", "two", "three")

        def meanwhile() -> None:
            lost.switch(False)
            assert ended.subscription is not None
            ended.subscription.end()

        first.on_write = meanwhile
        await live.customer(actor)
        await lost.sees(2)
        await live.customer(actor)
        await lost.sees(2, 3)
        lost.switch(True)
        await live.customer(actor)
        await lost.sees(2, 3, 4)
        await first.sees(2, 3, 4)
        assert (lost.pushed, first.pushed, ended.got) == ([2, 3], [], [])


async def test_a_write_that_fails_ends_its_subscription_only(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        before, broken, after = await direct_sinks(live, actor, "one", "one", "one")

        def fail() -> None:
            raise RuntimeError("the transport has a fault")

        broken.on_write = fail
        await live.customer(actor)
        await live.customer(actor)
        await before.sees(2, 3)
        await after.sees(2, 3)
        assert broken.got == []
        assert broken.errors is not None
        assert [one["extensions"]["code"] for one in broken.errors] == ["INTERNAL"]


async def test_others_run_while_very_many_are_written_to(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        sinks = await direct_sinks(live, actor, *["one"] * (2 * PUSHES_PER_TURN + 3))
        first, lost, ended = sinks[0], sinks[PUSHES_PER_TURN + 1], sinks[-1]
        loop = asyncio.get_running_loop()

        def meanwhile() -> None:
            # Some are not served yet.
            assert not sinks[-2].got
            lost.switch(False)
            assert ended.subscription is not None
            ended.subscription.end()

        first.on_write = partial(loop.call_soon, meanwhile)
        await live.customer(actor)
        await lost.sees(2)
        await sinks[-2].sees(2)
        assert {tuple(sink.got) for sink in sinks[:-1]} == {(2,)}
        assert (ended.got, lost.pushed) == ([], [2])
        assert live.hub.stats.deliveries == len(sinks)


@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(20))
async def test_changing_direct_writers_cost_no_sink_an_event_or_its_order(
    world: World, turn: int, seed: str
) -> None:
    chance = random.Random(seed)
    async with listening(world) as live:
        actor = await owner(world)
        keys = [chance.choice(["one", "two", f"own{number}"]) for number in range(40)]
        sinks = await direct_sinks(live, actor, *keys)
        loop = asyncio.get_running_loop()

        def stir(sink: DirectSink) -> None:
            for other in chance.sample(sinks, 5):
                if other is not sink:
                    other.switch(chance.random() < 0.5)
            sink.on_write = (
                partial(stir, sink) if chance.random() < 0.5 else partial(loop.call_soon, stir, sink)
            )

        for sink in chance.sample(sinks, 10):
            sink.on_write = partial(stir, sink)
        for _ in range(60):
            await live.customers(actor, chance.choice([1, 1, 2, 20]))
        total = len(live.made)
        for sink in sinks:
            await sink.sees(*range(2, total + 2))
        assert any(sink.pushed for sink in sinks)
        assert any(len(sink.pushed) < total for sink in sinks)
