"""The database's schema, step by step; `migrate` brings a database to the last step."""

import asyncio
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from app.core.outages import report
from app.db.database import Database

FIRST_PAUSE: Final = 0.25
LONGEST_PAUSE: Final = 5.0

log = structlog.get_logger(__name__)

# Any number, the same for every process: who migrates holds this lock of PostgreSQL's.
_LOCK = 7_290_114_001


async def migrate(database: Database) -> None:
    """Bring the database to the last step. Several processes may start at once: one migrates, the others wait."""
    async with database.engine.connect() as connection:
        await connection.run_sync(_upgrade)
        await connection.commit()


async def migrate_when_there(database: Database) -> None:
    """The same for a database that is held: again and again until it is there, and it is held no more.

    Whatever else is wrong with it may be mended meanwhile, and is said each time.
    """
    pause = FIRST_PAUSE
    while database.is_held:
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
        try:
            await migrate(database)
        except Exception as error:
            report("migrating at start", error)
        else:
            database.is_held = False
    log.info("database_is_there")


async def is_ours(database: Database) -> bool:
    """Whether any version of Voltwire has made its tables in this database."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(lambda sync: inspect(sync).has_table("alembic_version"))


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
