"""The rows of a database, with which a test of a refusal shows that nothing changed, and helpers for mutations."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import event, select
from sqlmodel import col

from app.db.database import Database
from app.events.models import EventRecord
from app.tables import metadata
from tests.support import World

# Written apart from requests, at any time.
_UNTIMED = {"api_keys": {"last_used_at"}}


async def state(world: World) -> dict[str, list[dict[str, Any]]]:
    """All rows by table."""
    async with world.database.reading() as session:
        return {
            table.name: sorted(
                (
                    {key: value for key, value in row.items() if key not in _UNTIMED.get(table.name, ())}
                    for row in (await session.execute(select(table))).mappings()
                ),
                key=repr,
            )
            for table in metadata.sorted_tables
        }


@asynccontextmanager
async def unchanged(world: World) -> AsyncIterator[None]:
    """Asserts that the code inside changes, adds and deletes no row of any table."""
    before = await state(world)
    yield
    assert await state(world) == before


async def events(world: World, account_id: str) -> list[EventRecord]:
    """The account's log, oldest first."""
    statement = (
        select(EventRecord)
        .where(col(EventRecord.account_id) == account_id)
        .order_by(col(EventRecord.sequence))
    )
    async with world.database.reading() as session:
        return list((await session.execute(statement)).scalars())


@contextmanager
def reads(database: Database) -> Iterator[list[str]]:
    """Collects the statements of reading sessions."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement != "BEGIN":
            statements.append(statement)

    engine, reads = database._readers.sync_engine, database.reads
    event.listen(engine, "before_cursor_execute", note)
    before, reads.on_statement = reads.on_statement, statements.append
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
        reads.on_statement = before


def refusals(payload: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Code and field of each entry of `userErrors`; the rest of the payload is null."""
    rest = {name: value for name, value in payload.items() if name != "userErrors"}
    assert rest
    assert not any(rest.values())
    assert all(one["message"].endswith(".") for one in payload["userErrors"])
    return [(one["code"], one["field"]) for one in payload["userErrors"]]


def mutation(name: str, selects: str) -> str:
    """The document of a mutation whose input is the variable `input`."""
    return (
        f"mutation ($input: {name[0].upper()}{name[1:]}Input!) "
        f"{{ {name}(input: $input) {{ {selects} userErrors {{ code message field }} }} }}"
    )
