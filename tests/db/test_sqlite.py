"""SQLite's connections: one round trip for each statement, and BEGIN along with the first."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import (
    Boolean,
    Integer,
    String,
    bindparam,
    column,
    func,
    insert,
    literal,
    select,
    table,
    text,
    union_all,
)

from app.db import sqlite
from app.db.database import Database
from app.db.sqlite import Connection
from app.db.types import Json, UtcDateTime


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    connection = await sqlite.connect(str(tmp_path / "file.db"))
    await connection.cursor().execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER UNIQUE)")
    yield connection
    await connection.close()


async def test_a_statement_gives_its_rows_and_counts(connection: Connection) -> None:
    cursor = connection.cursor()
    await cursor.executemany("INSERT INTO counters (value) VALUES (?)", [(10,), (20,), (30,)])
    assert (cursor.rowcount, cursor.description) == (3, None)
    await cursor.execute("UPDATE counters SET value = value + 1 WHERE value < ? RETURNING id, value", (25,))
    assert [column[0] for column in cursor.description] == ["id", "value"]
    assert cursor.rowcount == 2
    assert await cursor.fetchall() == [(1, 11), (2, 21)]
    assert await cursor.fetchall() == []
    await cursor.execute("INSERT INTO counters (value) VALUES (40)")
    assert cursor.lastrowid == 4


async def test_a_transaction_begins_with_its_first_statement(connection: Connection, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "file.db", timeout=0)
    try:
        connection.begin("BEGIN IMMEDIATE")
        other.execute("INSERT INTO counters (value) VALUES (1)")
        other.commit()
        await connection.cursor().execute("INSERT INTO counters (value) VALUES (2)")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO counters (value) VALUES (3)")
        await connection.commit()
        assert other.execute("SELECT value FROM counters ORDER BY value").fetchall() == [(1,), (2,)]
    finally:
        other.close()


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_transaction_without_a_statement_never_begins(connection: Connection, end: str) -> None:
    connection.begin("BEGIN IMMEDIATE")
    await getattr(connection, end)()
    # Outside a transaction, so no rollback affects it.
    await connection.cursor().execute("INSERT INTO counters (value) VALUES (1)")
    await connection.rollback()
    cursor = await connection.cursor().execute("SELECT value FROM counters")
    assert await cursor.fetchall() == [(1,)]


async def test_a_statement_that_fails_leaves_the_transaction_to_be_rolled_back(
    connection: Connection,
) -> None:
    connection.begin("BEGIN IMMEDIATE")
    await connection.cursor().execute("INSERT INTO counters (value) VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError):
        await connection.cursor().execute("INSERT INTO counters (value) VALUES (1)")
    await connection.rollback()
    cursor = await connection.cursor().execute("SELECT count(*) FROM counters")
    assert await cursor.fetchall() == [(0,)]


async def test_a_closed_connection_keeps_no_lock(connection: Connection, tmp_path: Path) -> None:
    second = await sqlite.connect(str(tmp_path / "file.db"))
    second.begin("BEGIN IMMEDIATE")
    await second.cursor().execute("INSERT INTO counters (value) VALUES (1)")
    await second.close()
    connection.begin("BEGIN IMMEDIATE")
    cursor = await connection.cursor().execute("SELECT count(*) FROM counters")
    assert await cursor.fetchall() == [(0,)]
    await connection.commit()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'direct.db'}")
    yield opened
    await opened.dispose()


async def test_values_come_back_as_by_sqlalchemy(database: Database) -> None:
    at = datetime(2026, 11, 24, 22, 29, 55, 123000, tzinfo=UTC)
    statement = select(
        literal("ä", String()).label("text"),
        literal(True, Boolean()).label("truth"),
        literal(at, UtcDateTime()).label("time"),
        literal({"a": [1, 2.5, None]}, Json).label("json"),
        literal(None, UtcDateTime()).label("none_at_all"),
    )
    (row,) = await database.read(statement, {})
    assert list(row) == ["ä", True, at, {"a": [1, 2.5, None]}, None]


async def test_parameters_by_name_and_lists_of_any_length(database: Database) -> None:
    numbers = union_all(*(select(literal(n, Integer()).label("n")) for n in range(5))).subquery()
    among = numbers.c.n.in_(bindparam("wanted", expanding=True))
    statement = select(numbers.c.n).where(among, numbers.c.n < bindparam("most")).order_by(numbers.c.n)
    for wanted in ([1, 3], [0, 1, 2, 4], []):
        rows = await database.read(statement, {"wanted": wanted, "most": 4})
        assert [row[0] for row in rows] == [n for n in wanted if n < 4]


async def test_nothing_is_written_and_a_snapshot_sees_one_state(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE counters (value INTEGER)"))
    count = select(func.count()).select_from(table("counters"))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(
            insert(table("counters", column("value"))).values(value=1).returning(column("value")), {}
        )
    async with database.snapshot() as snapshot:
        before = await snapshot.fetch(count, {})
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO counters VALUES (1)"))
        assert (
            [list(row) for row in await snapshot.fetch(count, {})] == [list(row) for row in before] == [[0]]
        )
    assert [list(row) for row in await database.read(count, {})] == [[1]]


async def test_many_reads_at_once_and_some_that_are_cancelled(database: Database) -> None:
    statement = select(literal(7, Integer()))

    async def read() -> int:
        ((value,),) = await database.read(statement, {})
        return int(value)

    tasks = [asyncio.create_task(read()) for _ in range(200)]
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {one for one in outcomes if not isinstance(one, asyncio.CancelledError)} == {7}
    assert await read() == 7
