"""The driver for SQLite: statements in one go, and transactions that begin with their first."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app import sqlite
from app.sqlite import Connection


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    connection = await sqlite.connect(str(tmp_path / "file.db"))
    await connection.cursor().execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER UNIQUE)")
    yield connection
    await connection.close()


async def test_a_statement_brings_its_rows_and_what_it_changed(connection: Connection) -> None:
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
async def test_a_transaction_without_a_statement_never_was(connection: Connection, end: str) -> None:
    connection.begin("BEGIN IMMEDIATE")
    await getattr(connection, end)()
    # Outside of a transaction, so it stays whatever is rolled back.
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


async def test_a_connection_that_closes_keeps_no_lock(connection: Connection, tmp_path: Path) -> None:
    second = await sqlite.connect(str(tmp_path / "file.db"))
    second.begin("BEGIN IMMEDIATE")
    await second.cursor().execute("INSERT INTO counters (value) VALUES (1)")
    await second.close()
    connection.begin("BEGIN IMMEDIATE")
    cursor = await connection.cursor().execute("SELECT count(*) FROM counters")
    assert await cursor.fetchall() == [(0,)]
    await connection.commit()
