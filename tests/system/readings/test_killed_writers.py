"""Two servers write readings of the same days and are killed: the plain model knows the outcome."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import func, select

from app.readings.models import HalfHour
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter
from tests.readings.plain_model import Cell
from tests.services.patience import PATIENCE
from tests.services.postgres import Postgres
from tests.support import world
from tests.system.clients import Api, eventually
from tests.system.faults.rig import Rig, Victim, open_rig
from tests.system.readings import history
from tests.system.readings.writers import SPANS, Writers, store_as_before

POINTS = (
    "mutation.execute",
    "log.before_write",
    "log.written",
    "transaction.before_commit",
    "transaction.committed",
    "publish.before",
    "publish.done",
)
"""The failpoints on the way of a write."""

CARRY_OVER = "carry_over.before_commit"


@pytest.fixture(params=["sqlite", "postgresql"])
async def rigs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Rig]]:
    """Two servers over one database."""
    async with contextlib.AsyncExitStack() as stack:
        url = f"sqlite:///{tmp_path / 'voltwire.db'}"
        if request.param == "postgresql":
            postgres: Postgres = request.getfixturevalue("postgres")
            url = await postgres.create_database()
            stack.push_async_callback(postgres.drop_database, url)
        opened = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            opened.append(await stack.enter_async_context(open_rig(url, tmp_path / name)))
        yield opened


async def hire(url: str, rig: Rig, chance: random.Random) -> Writers:
    """Writers of a new account's meters, which have readings of a version before days."""
    async with world(url) as opened:
        account = await opened.account()
        customer_id = await make_customer(opened, account)
        await make_consent(opened, account, customer_id)
        made = [(await make_meter(opened, account, customer_id, number))["id"] for number in NUMBERS]
    values = {at: (at % 1000 * 10**5, at % 7 == 0) for span in SPANS for at in range(*span) if at % 5}
    writers = Writers(account.key, made[:2], made[2:4], made[4], values, chance)
    await store_as_before(
        rig.database, {Cell(writers.quiet, "IMPORT", at): one for at, one in values.items()}
    )
    return writers


async def live(
    rigs: list[Rig],
    writers: Writers,
    points: list[tuple[str | None, int]],
    answers: int = 0,
    after: float = 0,
) -> None:
    """Keeps servers busy until all are dead: at their points, or so many seconds after so many answers."""
    victims = [await rig.start(*point) for rig, point in zip(rigs, points, strict=False)]
    wanted = writers.answers + answers
    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as busy:
            for at, (rig, victim) in enumerate(zip(rigs, victims, strict=False)):
                busy.create_task(_use(rig, victim, writers, writers.solo[at : at + 1]))
            for victim, (point, _) in zip(victims, points, strict=False):
                if point is None:
                    busy.create_task(_kill(victim, writers, wanted, after))
    finally:
        for rig, victim in zip(rigs, victims, strict=False):
            victim.kill()
            await rig.bury(victim)


async def _use(rig: Rig, victim: Victim, writers: Writers, solo: list[str]) -> None:
    if await victim.ready():
        await writers.use(rig.http_url, solo)


async def _kill(victim: Victim, writers: Writers, answers: int, after: float) -> None:
    while writers.answers < answers and not victim.ended.done():  # noqa: ASYNC110 - many writers, no event of all
        await asyncio.sleep(0.001)
    await asyncio.sleep(after)
    victim.kill()


async def recover(rigs: list[Rig], writers: Writers) -> None:
    """Gives a clean server its time, then checks everything."""
    rig = rigs[0]
    clean = await rig.start()
    try:
        assert await clean.ready()
        await writers.finish(rig.http_url)

        async def carried_over() -> bool:
            async with rig.database.reading() as session:
                return (await session.execute(select(func.count()).select_from(HalfHour))).scalar_one() == 0

        await eventually(carried_over)
        async with Api(rig.http_url, writers.key) as api:
            await history.check(writers, rig.database, api)
        assert await clean.terminate() == 0
    finally:
        clean.kill()
        await rig.bury(clean)
    assert [line for one in rigs for line in one.problems()] == []
    kept = len(writers.certain)
    print(
        f"{writers.answers} answers, {kept} certain, {len(writers.uncertain)} uncertain, {writers.looks} looks"
    )
    assert writers.looks
    assert kept


async def test_no_half_hour_is_lost_by_killed_writers(rigs: list[Rig], seed: str, thorough: bool) -> None:
    """Killed at each failpoint and at random instants; PostgreSQL ends sessions amid a COMMIT as well."""
    chance = random.Random(seed)
    url = rigs[0].url
    writers = await hire(url, rigs[0], chance)
    points = [*POINTS, CARRY_OVER] * (20 if thorough else 1)
    chance.shuffle(points)
    while points:
        await writers.write_as_before(rigs[0].database)
        pair = [points.pop(), points.pop()]
        await live(rigs, writers, [(one, 1 if one == CARRY_OVER else chance.randint(1, 30)) for one in pair])
    for _ in range(300 if thorough else 1):
        await writers.write_as_before(rigs[0].database)
        async with ending_commits(url, chance):
            await live(
                rigs,
                writers,
                [(None, 1)] * 2,
                chance.choice((0, 20, 80)) if thorough else 80,
                chance.random() / 10,
            )
    await recover(rigs, writers)


@contextlib.asynccontextmanager
async def ending_commits(url: str, chance: random.Random) -> AsyncIterator[None]:
    """Ends sessions of PostgreSQL amid a COMMIT or any other statement, again and again."""
    if url.startswith("sqlite"):
        yield
        return
    connection = await asyncpg.connect(url)

    async def end() -> None:
        while True:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND state = 'active' AND (query = 'COMMIT' OR random() < 0.05)"
            )
            await asyncio.sleep(chance.uniform(0, 0.05))

    ending = asyncio.create_task(end())
    try:
        yield
    finally:
        ending.cancel()
        await asyncio.wait([ending])
        await connection.close()
