"""Each statement about readings comes across the rows that it is asked for, among the days of many meters and years."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.meters.models import Meter
from app.readings import carry_over
from app.readings.actions import record
from app.readings.carry_over import FIRST
from app.readings.columns import Columns
from app.readings.models import ReadingDay, ReadingRevision
from app.readings.packing import SLOTS
from tests.readings.many_days import (
    DAYS,
    FIRST_DAY,
    Filled,
    a_day,
    analyze,
    at_day,
    fill,
    numbers,
    without_foreign_keys,
)
from tests.readings.plans import Explained, Plan, captured, plan
from tests.services.postgres import Postgres
from tests.support import World, world

pytestmark = pytest.mark.both_databases

LAST_DAY = FIRST_DAY + DAYS - 1
YEAR = FIRST_DAY + 2 * 365
"""2024-01-01."""

OLD_DAY, HALF_HOURS = FIRST_DAY - 400, 96
"""The first day of half-hours of a version before days, and how many of them each meter has."""

REVISED = 300
"""Meters with revisions: the first one of each day, the second one of many days at once, the others a few."""

PERIOD = "from: $from, to: $to"


@pytest.fixture(scope="module")
async def postgres_of_many(postgres: Postgres, migrated_postgres: str) -> AsyncIterator[str]:
    url = await postgres.create_database(migrated_postgres)
    yield url
    await postgres.drop_database(url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url_of_many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("plans")
        return f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), folder / 'voltwire.db')}"
    url: str = request.getfixturevalue("postgres_of_many")
    return url


@pytest.fixture(scope="module")
async def many(url_of_many: str) -> AsyncIterator[tuple[World, Filled]]:
    async with world(url_of_many) as opened:
        filled = await fill(opened, 1000)
        await add_revisions_and_half_hours(opened, len(filled.meters))
        await analyze(opened.database)
        yield opened, filled


async def add_revisions_and_half_hours(world: World, count: int) -> None:
    async with world.database.transaction() as session:
        await without_foreign_keys(session)
        for meters, days, replaced in (
            ((1, 1), DAYS, "1000 + day.n"),
            ((2, 2), DAYS, "1000"),
            ((3, REVISED), 20, "1000 + day.n"),
        ):
            await session.execute(
                text(
                    "INSERT INTO reading_revisions "
                    "(meter_key, channel, day, replaced_ms, reason, recorded_ms, packed) "
                    f"SELECT one.n, 0, {FIRST_DAY} + day.n, {replaced}, 0, 1, {a_day(session)} "
                    f"FROM {numbers(session, 'one', *meters)}, {numbers(session, 'day', 0, days - 1)} WHERE TRUE"
                )
            )
        await session.execute(
            text(
                "INSERT INTO readings (meter_id, start_ms, micro_kwh, estimated, recorded_at) "
                f"SELECT meters.id, {OLD_DAY * 86_400_000} + 1800000 * half_hour.n, 1000, 0, meters.created_at "
                f"FROM meters, {numbers(session, 'half_hour', 0, HALF_HOURS - 1)} WHERE TRUE ORDER BY 1, 2"
            )
        )
    assert count > REVISED


async def plans(many: tuple[World, Filled], query: str, **variables: Any) -> list[list[Plan]]:
    """The plans of each statement that a query makes: on PostgreSQL for its parameters and for any."""
    world, filled = many
    with captured(world.database, "meter_keys") as statements:
        await world.data(query, variables, key=filled.account.key)
    assert statements
    found = []
    async with world.database.transaction() as session:
        for one in statements:
            kinds = (False,) if world.database.is_sqlite else (False, True)
            found.append([await plan(session, one, generic=generic) for generic in kinds])
    return found


def expect_searched(plan: Plan) -> None:
    """PostgreSQL rather reads the few pages of a thousand meters or keys as a whole."""
    assert not {table for table in plan.scanned if table.startswith("reading")}


def one_meter(fields: str) -> str:
    return f"query ($id: ID!, $from: DateTime, $to: DateTime) {{ meter(id: $id) {{ {fields} }} }}"


def year() -> dict[str, str]:
    return {"from": at_day(YEAR), "to": at_day(LAST_DAY + 1)}


@pytest.mark.parametrize("granularity", ["HALF_HOUR", "DAY"])
async def test_a_year_of_a_meter_is_the_days_of_one_partition(
    many: tuple[World, Filled], granularity: str
) -> None:
    query = one_meter(f"intervalData({PERIOD}, granularity: {granularity}) {{ total }}")
    [found] = await plans(many, query, id=many[1].meters[7], **year())
    for one in found:
        expect_searched(one)
        if many[0].database.is_sqlite:
            assert one.searched["reading_days"] == ["(meter_key=? AND channel=? AND day>? AND day<?)"]
            assert one.searched["readings"] == ["(meter_id=? AND start_ms>? AND start_ms<?)"]
        else:
            assert {name: count for name, count in one.rows.items() if name.startswith("reading_days")} == {
                "reading_days_2024": 366
            }
            assert one.of("readings") == 0


async def test_a_month_of_a_portfolio_is_its_days(many: tuple[World, Filled]) -> None:
    period = f'lookback: "1m", to: "{at_day(YEAR + 40)}", granularity: DAY'
    [found] = await plans(
        many, f"{{ meters(first: 100) {{ nodes {{ intervalData({period}) {{ total }} }} }} }}"
    )
    for one in found:
        expect_searched(one)
        if not many[0].database.is_sqlite:
            assert one.of("reading_days") == 100 * 31
            assert {name for name in one.rows if name.startswith("reading_days")} == {"reading_days_2024"}


@pytest.mark.parametrize("meters", [1, 100])
async def test_the_last_day_of_meters_is_found_at_the_end_of_their_days(
    many: tuple[World, Filled], meters: int
) -> None:
    query = f"{{ meters(first: {meters}) {{ nodes {{ intervalData {{ total }} }} }} }}"
    outermost, days = await plans(many, query)
    for one in (*outermost, *days):
        expect_searched(one)
    if not many[0].database.is_sqlite:
        for one in outermost:
            assert one.of("reading_days") == meters
            assert one.of("readings") <= meters
        for one in days:
            assert one.of("reading_days") == meters


async def test_coverage_reads_the_days_of_its_period(many: tuple[World, Filled]) -> None:
    query = one_meter(f"coverage({PERIOD}) {{ present latestAt }}")
    last, days = await plans(many, query, id=many[1].meters[7], **year())
    for one in (*last, *days):
        expect_searched(one)
    if not many[0].database.is_sqlite:
        for one in days:
            assert one.of("reading_days") == 366


async def test_coverage_without_a_period_reads_all_days(many: tuple[World, Filled]) -> None:
    found = await plans(
        many, "query ($id: ID!) { meter(id: $id) { coverage { present } } }", id=many[1].meters[7]
    )
    for one in (each for kinds in found for each in kinds):
        expect_searched(one)
    if not many[0].database.is_sqlite:
        for one in found[-1]:
            assert one.of("reading_days") == DAYS


PAGE = 10


@pytest.mark.parametrize("meter", [0, 1, 5])
@pytest.mark.parametrize("page", ["first: 10", "last: 10", "first: 10, after: $c", "last: 10, before: $c"])
async def test_a_page_of_revisions_is_not_all_of_them(
    many: tuple[World, Filled], meter: int, page: str
) -> None:
    cursor = None
    if "$c" in page:
        whole = "meter(id: $id) { revisions(first: 10) { pageInfo { endCursor } } }"
        answer = await many[0].data(
            f"query ($id: ID!) {{ {whole} }}", {"id": many[1].meters[meter]}, key=many[1].account.key
        )
        cursor = answer["meter"]["revisions"]["pageInfo"]["endCursor"]
    declared = ", $c: String" if cursor else ""
    query = (
        f"query ($id: ID!{declared}) {{ meter(id: $id) {{ revisions({page}) {{ nodes {{ startAt }} }} }} }}"
    )
    given = {"id": many[1].meters[meter]} | ({"c": cursor} if cursor else {})
    [found] = await plans(many, query, **given)
    for one in found:
        expect_searched(one)
        if not many[0].database.is_sqlite:
            assert one.of("reading_revisions") <= 2 * (PAGE + 3)


async def test_a_write_reads_and_writes_the_days_that_it_touches(many: tuple[World, Filled]) -> None:
    world, filled = many
    actor = (await world.authenticator.authenticate(filled.account.key)).actor
    starts = list(range(YEAR * SLOTS, (LAST_DAY + 1) * SLOTS))
    year = Columns(starts, [1000] * len(starts), [False] * len(starts))
    async with world.database.transaction() as session:
        explained = Explained(session)
        await explained.run(record(session, actor, filled.meters[9], year))
        touched = explained.of("stored.packed")
        expect_searched(touched)
        expect_searched(explained.of("INSERT INTO reading_days"))
        expect_searched(explained.of("INSERT INTO reading_revisions"))
        if world.database.is_sqlite:
            assert touched.searched["stored"] == ["(meter_key=? AND channel=? AND day=?)"]
        else:
            assert touched.of("reading_days") == 366
            assert touched.of("readings") == 0
            assert {name for name in touched.rows if name.startswith("reading_days")} == {"reading_days_2024"}
        await session.rollback()


async def test_a_write_takes_the_half_hours_of_its_days(many: tuple[World, Filled]) -> None:
    world, filled = many
    actor = (await world.authenticator.authenticate(filled.account.key)).actor
    async with world.database.transaction() as session:
        explained = Explained(session)
        await explained.run(
            record(session, actor, filled.meters[9], Columns([OLD_DAY * SLOTS], [5], [False]))
        )
        taken = explained.of("DELETE FROM readings")
        expect_searched(taken)
        if not world.database.is_sqlite:
            assert taken.of("readings") <= 2 * 48
        await session.rollback()
        # Nor is written what was left for the transaction's end.
        session.info.clear()


async def test_carrying_over_comes_across_the_half_hours_that_it_moves(many: tuple[World, Filled]) -> None:
    world, filled = many
    for after in (FIRST, (filled.meters[50], OLD_DAY * 86_400_000 + 60_000_000)):
        async with world.database.transaction() as session:
            explained = Explained(session)
            await explained.run(carry_over._moving(world.database.is_sqlite, after, 2000))
            for sql, one in explained.plans:
                expect_searched(one)
                if not world.database.is_sqlite and "FROM readings WHERE" in sql:
                    assert one.of("readings") <= 2000 + 2 * HALF_HOURS
            await session.rollback()


async def test_deleting_a_meter_comes_across_its_own_days(
    many: tuple[World, Filled], url_of_many: str
) -> None:
    world, filled = many
    deleted = filled.meters[20]
    if world.database.is_sqlite:
        # A search of all days alone takes millions.
        assert steps_of_deletion(url_of_many.removeprefix("sqlite:///"), deleted) < 200_000
        return
    async with world.database.transaction() as session:
        before = await scanned_rows(session)
        await session.execute(delete(Meter).where(col(Meter.id) == deleted))
        assert await scanned_rows(session) == before
        for model in (ReadingDay, ReadingRevision):
            left = select(func.count()).where(col(model.meter_key) == 21)
            assert (await session.execute(left)).scalar_one() == 0
        await session.rollback()


async def scanned_rows(session: AsyncSession) -> list[Any]:
    """The rows of each table that this transaction has come across without an index."""
    table = "pg_stat_xact_user_tables"
    statement = f"SELECT relname, seq_tup_read FROM {table} WHERE relname LIKE 'reading%' ORDER BY relname"
    return list((await session.execute(text(statement))).all())


def steps_of_deletion(path: str, meter_id: str) -> int:
    """How many steps SQLite makes to delete a meter and all that goes with it."""
    steps: list[None] = []

    def count() -> int:
        steps.append(None)
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("BEGIN IMMEDIATE")
        connection.set_progress_handler(count, 100)
        connection.execute("DELETE FROM meters WHERE id = ?", (meter_id,))
        connection.set_progress_handler(None, 0)
        left = "SELECT count(*) FROM reading_days WHERE meter_key = 21"
        assert connection.execute(left).fetchone() == (0,)
        connection.rollback()
    return 100 * len(steps)
