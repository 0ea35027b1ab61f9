"""The steps that make the tables: the same as the models say, on both databases, however many start at once."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, select, text
from sqlmodel import SQLModel

from app import tables
from app.accounts import actions as accounts
from app.db import migrations
from app.db.database import Database
from app.db.migrations import migrate
from app.delivery.queue.models import Replay

MIGRATE = """
import asyncio, sys
from app.db.database import Database
from app.db.migrations import migrate
from app.delivery.queue.models import Replay

async def main():
    database = Database(sys.argv[1])
    sys.stdin.read()
    await migrate(database)
    await database.dispose()

asyncio.run(main())
"""

PARTITION = re.compile(r"reading_days_(?:\d{4}|default)")

# Indexes over expressions and the conditions of partial ones are compared in a test of their own.
pytestmark = [
    pytest.mark.both_databases,
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index"),
    pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index"),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url)
    yield opened
    await opened.dispose()


async def look(database: Database, see: Any) -> Any:
    async with database.engine.connect() as connection:
        return await connection.run_sync(see)


def differences(connection: Connection) -> list[Any]:
    def is_no_partition(_object: Any, name: str | None, kind: str, *_: Any) -> bool:
        return kind != "table" or not PARTITION.fullmatch(name or "")

    context = MigrationContext.configure(
        connection,
        opts={"compare_type": True, "compare_server_default": True, "include_object": is_no_partition},
    )
    return list(compare_metadata(context, tables.metadata))


def indexes(connection: Connection) -> dict[str, str]:
    """All indexes that have a name of ours, with what they are made of, in the database's own words."""
    if connection.dialect.name == "sqlite":
        statement = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        statement = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
    return dict(connection.execute(text(statement)).all())  # type: ignore[arg-type]


def table_names(connection: Connection) -> set[str]:
    """All tables, partitions left out."""
    return {name for name in inspect(connection).get_table_names() if not PARTITION.fullmatch(name)}


async def test_the_steps_make_what_the_models_say(database: Database) -> None:
    await migrate(database)
    assert await look(database, table_names) == {*SQLModel.metadata.tables, "alembic_version"}
    assert await look(database, differences) == []


async def test_the_steps_make_the_indexes_that_the_models_make(database: Database) -> None:
    await migrate(database)
    by_steps = await look(database, indexes)
    async with database.transaction() as session:
        connection = await session.connection()
        await connection.run_sync(tables.metadata.drop_all)
        await session.execute(text("DROP TABLE alembic_version"))
        await connection.run_sync(tables.metadata.create_all)
    by_models = await look(database, indexes)
    by_steps.pop("alembic_version_pkc", None)
    assert by_steps == by_models
    for name in ("uq_customers_email", "uq_users_email"):
        assert "unique index" in by_steps[name].lower()
        assert "lower(" in by_steps[name].lower()


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await migrate(database)
    async with database.transaction() as session:
        created = await accounts.create_account(session, name="Bright Energy", email="owner@example.com")
    await asyncio.gather(*(migrate(database) for _ in range(3)))
    async with database.reading() as session:
        names = await session.execute(text("SELECT id, name FROM accounts"))
        assert names.all() == [(created.account.id, "Bright Energy")]
    assert await look(database, differences) == []


async def test_processes_that_start_at_once_migrate_once(database: Database, database_url: str) -> None:
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", MIGRATE, database_url, stdin=pipe, stderr=pipe
        )
        for _ in range(2)
    ]
    # Each waits for the end of its input, which comes to all at once.
    ended = await asyncio.gather(*(process.communicate(b"") for process in processes))
    assert [(process.returncode, said) for process, (_, said) in zip(processes, ended, strict=True)] == [
        (0, b"")
    ] * 2
    assert await look(database, differences) == []
    async with database.reading() as session:
        assert (await session.execute(text("SELECT version_num FROM alembic_version"))).scalars().all() == [
            ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()
        ]


async def test_a_step_that_fails_leaves_nothing_behind(database: Database) -> None:
    """Half-made tables would stop every later start."""
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE outgoing_mails (id integer)"))
    with pytest.raises(Exception, match="outgoing_mails"):
        await migrate(database)
    assert await look(database, table_names) - {"alembic_version"} == {"outgoing_mails"}
    async with database.transaction() as session:
        await session.execute(text("DROP TABLE outgoing_mails"))
    await migrate(database)
    assert await look(database, differences) == []


async def test_replays_to_endpoints_stay_when_replays_may_go_anywhere(database: Database) -> None:
    def before(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        tables = MetaData()
        tables.reflect(connection, only=["accounts", "webhook_endpoints", "replays"])
        for name, values in (
            ("accounts", {"id": "acc_1", "name": "Bright Energy"}),
            (
                "webhook_endpoints",
                {"id": "whe_1", "account_id": "acc_1", "url": "https://example.com/", "ordered": False}
                | {
                    "status": "ENABLED",
                    "first_sequence": 1,
                    "failures": 0,
                    "public_key": "",
                    "updated_at": at,
                }
                | {"secret_encrypted": "", "signing_key_encrypted": ""},
            ),
            (
                "replays",
                {"id": "rpl_1", "account_id": "acc_1", "webhook_endpoint_id": "whe_1", "position": 3}
                | {"through": 7, "is_cancelled": False},
            ),
        ):
            connection.execute(tables.tables[name].insert().values(created_at=at, **values))

    at: Any = 0 if database.is_sqlite else datetime(2026, 11, 1, tzinfo=UTC)
    async with database.engine.begin() as connection:
        await connection.run_sync(before)
    await migrate(database)
    async with database.reading() as session:
        (kept,) = (await session.execute(select(Replay))).scalars()
        assert (kept.id, kept.account_id, kept.destination_id) == ("rpl_1", "acc_1", "whe_1")
        assert (kept.position, kept.through, kept.is_cancelled) == (3, 7, False)
    # The account's deletion still takes its replays with it.
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM webhook_endpoints"))
        await session.execute(text("DELETE FROM accounts"))
    async with database.reading() as session:
        assert (await session.execute(select(Replay))).first() is None
