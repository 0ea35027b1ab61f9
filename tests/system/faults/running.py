"""The life of a server that dies, and of the clean one that comes after it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from sqlalchemy import select
from sqlmodel import col

from app.events.models import Stream
from tests.services.patience import PATIENCE
from tests.system.clients import eventually
from tests.system.faults import oracle
from tests.system.faults.load import Load
from tests.system.faults.rig import Incarnation, Rig, Victim


async def live(
    rig: Rig, loads: Sequence[Load], victim: Victim, *, answers: int = 0, after: float | None = None
) -> Incarnation:
    """Keep a server busy until it dies: by itself, or `after` seconds after `answers` answers."""
    async with buried(rig, victim):
        if await victim.ready():
            using = [asyncio.create_task(load.run()) for load in loads]
            using += [asyncio.create_task(load.tenant.following.follow()) for load in loads]
            if after is not None:
                await _answered(loads, answers)
                await asyncio.sleep(after)
                victim.kill()
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(victim.ended)
                await asyncio.gather(*using)
    return rig.incarnations[-1]


async def recover(rig: Rig, loads: Sequence[Load]) -> int:
    """Give a clean server its time, then check everything; gives how many deliveries arrived more than once."""
    await rig.run_out_leases()
    clean = await rig.start()
    async with buried(rig, clean):
        assert await clean.ready()
        following = [asyncio.create_task(load.tenant.following.follow()) for load in loads]
        for load in loads:
            await load.finish()
        await rig.settled()
        for load in loads:
            await oracle.check_pages(rig, load.tenant)
            await eventually(lambda load=load: _has_caught_up(rig, load))
        assert await clean.terminate() == 0
        await asyncio.gather(*following)
    repeated = [await oracle.check(rig, load.tenant, load) for load in loads]
    assert rig.problems() == []
    return sum(repeated)


@contextlib.asynccontextmanager
async def buried(rig: Rig, victim: Victim) -> AsyncIterator[None]:
    """Whatever happens, the server is gone with the block, and what it has left is kept."""
    try:
        yield
    finally:
        victim.kill()
        await rig.bury(victim)


async def _answered(loads: Sequence[Load], count: int) -> None:
    """Wait until `count` more mutations are answered."""
    wanted = sum(load.answers for load in loads) + count
    async with asyncio.timeout(PATIENCE):
        while sum(load.answers for load in loads) < wanted:  # noqa: ASYNC110 - several loads, no event of all
            await asyncio.sleep(0.001)


async def _has_caught_up(rig: Rig, load: Load) -> bool:
    events = load.tenant.following.events
    statement = select(col(Stream.last_sequence)).where(col(Stream.account_id) == load.tenant.id)
    async with rig.database.reading() as session:
        last = (await session.execute(statement)).scalar_one()
    return bool(events) and events[-1]["sequence"] == last
