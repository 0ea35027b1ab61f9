"""Workers carry half-hours of an earlier version over and are killed: reads stay the same all the time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from sqlmodel import col

from app.core import clock
from app.events.models import EventRecord
from app.readings.models import ReadingDay, ReadingRevision
from tests.services.postgres import Postgres
from tests.support import world
from tests.system.clients import Api
from tests.system.faults.rig import Rig, Victim, open_rig
from tests.system.readings.old_half_hours import FIRST, RECORDED, OldHalfHours, is_any_left

POINTS = ("carry_over.before_commit", "transaction.before_commit", "transaction.committed")
SIZES = [
    pytest.param((6, 10_000), id="60-thousand"),
    pytest.param((30, 10_000), id="300-thousand", marks=pytest.mark.long),
    pytest.param((500, 20_000), id="10-million", marks=pytest.mark.long),
]


@pytest.fixture(params=["sqlite", "postgresql"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with contextlib.AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'voltwire.db'}"
        if request.param == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            url = await postgres.create_database()
            stack.push_async_callback(postgres.drop_database, url)
        yield await stack.enter_async_context(open_rig(url, tmp_path))


@pytest.mark.parametrize("size", SIZES)
async def test_reads_are_the_same_while_killed_workers_carry_half_hours_over(
    rig: Rig, size: tuple[int, int], seed: str, thorough: bool
) -> None:
    chance = random.Random(seed)
    async with world(rig.url) as opened:
        old = await OldHalfHours.store(opened, *size)
    looks = 0
    kills = [*POINTS, *([None] * (20 if thorough else 1))]
    chance.shuffle(kills)
    # The last victim lives until all is carried over.
    for point in [*kills, "none"]:
        victim = await rig.start(point, chance.randint(1, 3))
        try:
            if await victim.ready():
                async with Api(rig.http_url, old.key) as api:
                    looking = asyncio.create_task(look(old, api, chance))
                    if point is None:
                        await asyncio.sleep(chance.random())
                    else:
                        await carried_over_by(victim, rig)
                    victim.kill()
                    looks += await looking
        finally:
            victim.kill()
            await rig.bury(victim)
    assert not await is_any_left(rig.database)
    clean = await rig.start()
    try:
        assert await clean.ready()
        async with Api(rig.http_url, old.key) as api:
            await old.look_at_whole(api, chance)
        assert await clean.terminate() == 0
    finally:
        clean.kill()
        await rig.bury(clean)
    assert looks
    assert rig.problems() == []
    await expect_days(rig, old)
    print(f"{looks} looks")


async def look(old: OldHalfHours, api: Api, chance: random.Random) -> int:
    """Looks until the server is gone; gives how many times."""
    looks = 0
    with contextlib.suppress(httpx.TransportError):
        while True:
            await old.look(api, chance)
            looks += 1
    return looks


async def carried_over_by(victim: Victim, rig: Rig) -> None:
    """Waits until the victim is dead, or has carried all over."""
    while not victim.ended.done() and await is_any_left(rig.database):  # noqa: ASYNC110 - it happens elsewhere
        await asyncio.sleep(0.02)


async def expect_days(rig: Rig, old: OldHalfHours) -> None:
    """Every half-hour lies in its day as it was recorded, once, and nobody was told of it."""
    days = (FIRST + old.each - 1) // 48 - FIRST // 48 + 1
    async with rig.database.reading() as session:
        recorded = (
            select(col(ReadingDay.recorded_ms), col(ReadingDay.reason), col(ReadingDay.origins), func.count())
            .group_by(col(ReadingDay.recorded_ms), col(ReadingDay.reason), col(ReadingDay.origins))
        )  # fmt: skip
        found = [tuple(row) for row in await session.execute(recorded)]
        assert found == [(clock.to_ms(RECORDED), 0, None, days * len(old.meters))]
        assert (await session.execute(select(func.count()).select_from(ReadingRevision))).scalar_one() == 0
        told = select(func.count()).where(col(EventRecord.type) == "meter_data.received")
        assert (await session.execute(told)).scalar_one() == 0
