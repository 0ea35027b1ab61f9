"""Copies rows within a Voltwire's database behind its back, whatever columns its revision has."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Self

from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

FIRST = 1_000_000_000
"""A copy's id ends with this number plus the copy's own, so that all have as many digits."""


def some_ids(prefix: str) -> str:
    """SQL for the id of the n-th copy, in the form of Voltwire's ids and unlike those of any other call."""
    return f"'{prefix}_{secrets.token_hex(8)}' || CAST({FIRST} + n AS TEXT)"


def nth_id(ids: str, number: int) -> str:
    """The id that `some_ids` gives the copy of this number."""
    return ids.split("'")[1] + str(FIRST + number)


class Copies:
    """A connection to the database of one installation. Neither its code nor today's takes part in it."""

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        driver = url.replace("sqlite://", "sqlite+aiosqlite://").replace(
            "postgresql://", "postgresql+asyncpg://"
        )
        self.engine = create_async_engine(driver, connect_args={"timeout": 60})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.dispose()

    async def ask(self, statement: str) -> Sequence[Any]:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement))).fetchall()

    async def analyze(self, tables: str = "") -> None:
        """Do what PostgreSQL does by itself within a minute, which is longer than a benchmark has been running."""
        if not self.is_sqlite:
            async with self.engine.begin() as connection:
                await connection.execute(text(f"ANALYZE {tables}"))


async def copy(
    connection: AsyncConnection,
    table: str,
    count: int,
    changed: Mapping[str, str],
    where: str,
    values: Mapping[str, Any],
) -> None:
    """Insert the row that `where` finds `count` times more, with n from 0 in the SQL of the `changed` columns."""
    columns = await connection.run_sync(
        lambda sync: [one["name"] for one in inspect(sync).get_columns(table)]
    )
    taken = ", ".join(changed.get(name, f'copied."{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    numbers = (
        "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count)"
    )
    statement = f"{numbers} INSERT INTO {table} ({names}) SELECT {taken} FROM numbers, {table} AS copied WHERE {where}"
    await connection.execute(text(statement), {**values, "count": count})
