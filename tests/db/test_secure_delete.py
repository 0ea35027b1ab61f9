"""Deleted rows are erased from SQLite's files, whatever happens to other transactions and to the log."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from app.db.database import Database, secure_delete
from app.db.scripts import announce

FAST = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "voltwire.db"


@pytest.fixture
async def database(path: Path) -> Any:
    opened = Database(f"sqlite:///{path}")
    async with opened.transaction() as session:
        await session.execute(text("CREATE TABLE people (name TEXT)"))
        await session.execute(text("INSERT INTO people VALUES ('Ada Lovelace')"))
    yield opened
    await opened.dispose()


def files(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in path.parent.iterdir())


async def test_deleted_rows_are_in_no_file(database: Database, path: Path) -> None:
    assert b"Ada Lovelace" in files(path)
    async with database.transaction() as session, secure_delete(session):
        await session.execute(text("DELETE FROM people"))
    assert b"Ada Lovelace" not in files(path)


async def delete_and_fail(database: Database, statement: str) -> None:
    async with database.transaction() as session:
        async with secure_delete(session):
            await session.execute(text("DELETE FROM people"))
            await session.execute(text(statement))
        raise KeyError


@pytest.mark.parametrize(
    ("statement", "error"), [("SELECT 1", KeyError), ("SELECT * FROM nobody", OperationalError)]
)
async def test_a_failed_transaction_leaves_the_setting_as_before(
    database: Database, statement: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await delete_and_fail(database, statement)
    async with database.transaction() as session:
        assert (await session.execute(text("PRAGMA secure_delete"))).scalar_one() == FAST
        assert (await session.execute(text("SELECT name FROM people"))).scalars().all() == ["Ada Lovelace"]


async def test_a_log_that_cannot_be_truncated_fails_no_commit(database: Database, path: Path) -> None:
    announced: list[Any] = []
    database.on_commit(announced.extend)
    with capture_logs() as logs:
        async with database.transaction() as session:
            async with secure_delete(session):
                await session.execute(text("DELETE FROM people"))
            announce(session, ["deleted"])
            path.rename(path.with_name("elsewhere.db"))
            path.mkdir()
    assert announced == ["deleted"]
    assert [line["log_level"] for line in logs] == ["warning"]
