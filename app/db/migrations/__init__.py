"""The steps of the database's schema; `migrate` brings a database to the last one."""

import asyncio
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from app.core.outages import report
from app.db.database import Database

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0

log = structlog.get_logger(__name__)

# An arbitrary number, the same for every process: the advisory lock of PostgreSQL for migrating.
_LOCK = 7_290_114_001


async def migrate(database: Database) -> tuple[str | None, str | None]:
    """Brings the database to the last step; returns the steps before and after, None for a database without tables.

    Several processes may start at once: one migrates, the others wait.
    """
    async with database.engine.connect() as connection:
        steps = await connection.run_sync(_upgrade)
        await connection.commit()
    return steps


async def migrate_when_reachable(database: Database) -> None:
    """Retries the migration of an unreachable database until it succeeds, and then opens the database for use.

    Other errors are logged each time: an operator may mend their causes meanwhile.
    """
    pause = FIRST_PAUSE
    while database.awaits_migration:
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
        try:
            await migrate(database)
        except Exception as error:
            report("migrating at start", error)
        else:
            database.awaits_migration = False
    log.info("database_is_there")


async def is_ours(database: Database) -> bool:
    """Whether any version of Voltwire has made its tables in this database."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version"))


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    before = _step(connection)
    command.upgrade(config, "head")
    return before, _step(connection)


def _step(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
