"""Writers of the log for property tests, in this process or in one of their own; what they do is chosen by a seed.

Every transaction, with a session or as a script, changes rows and appends one event for each change, in several
accounts. Some end badly: before or after the events, in a hook, by the database's own refusal, or cancelled at any
moment.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

import app.tables  # noqa: F401 - the rows refer to each other
from app.core.ids import new_id
from app.customers.actions import CUSTOMERS
from app.customers.events import CustomerCreated
from app.customers.models import Customer
from app.db.database import Database, before_commit
from app.db.raw_statements import Script
from app.db.scripts import InTransaction, write_before_commit
from app.events import log
from tests.services.forked import Piped

ENDINGS = ("commit", "before", "after", "hook", "refused", "cancelled")
WEIGHTS = (10, 1, 1, 1, 1, 2)


class Undone(Exception):
    """Ends a transaction that is not to be."""


@dataclass
class Outcome:
    """Ids of the customers whose transaction committed, was rolled back, or was cancelled and so may be either."""

    committed: list[str] = field(default_factory=list)
    undone: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        self.committed += other.committed
        self.undone += other.undone
        self.unknown += other.unknown


async def write(
    database: Database, account_ids: Sequence[str], seed: str, tasks: int, transactions: int
) -> Outcome:
    """Many writers at once over one database object."""
    outcome = Outcome()
    for one in await asyncio.gather(
        *(_writer(database, account_ids, f"{seed}.{number}", transactions) for number in range(tasks))
    ):
        outcome.add(one)
    return outcome


async def write_elsewhere(
    url: str, account_ids: Sequence[str], seed: str, tasks: int, transactions: int
) -> Outcome:
    """The same in another process."""
    arguments = json.dumps([url, list(account_ids), seed, tasks, transactions])
    process = await Piped.start("tests.events.writing:main", arguments, environment=os.environ)
    told, _ = await process.communicate()
    assert process.returncode == 0
    return Outcome(**json.loads(told))


async def _writer(database: Database, account_ids: Sequence[str], seed: str, transactions: int) -> Outcome:
    chance = random.Random(seed)
    outcome = Outcome()
    for number in range(transactions):
        (ending,) = chance.choices(ENDINGS, WEIGHTS)
        rows = _rows(chance, account_ids, f"{seed}.{number}")
        made = [row.id for row in rows]
        transaction = chance.choice((_transaction, _script))
        work = asyncio.create_task(transaction(database, rows, ending))
        if ending == "cancelled":
            for _ in range(chance.randrange(40)):
                await asyncio.sleep(0)
            work.cancel()
        try:
            await work
            (outcome.undone if ending not in ("commit", "cancelled") else outcome.committed).extend(made)
        except asyncio.CancelledError:
            outcome.unknown += made
        except (Undone, IntegrityError):
            outcome.undone += made
    return outcome


def _rows(chance: random.Random, account_ids: Sequence[str], transaction: str) -> list[Customer]:
    """Customers of one to three accounts, in any order; each knows its transaction and its place in it."""
    accounts = chance.sample(account_ids, chance.randint(1, 3))
    owners = [account for account in accounts for _ in range(chance.randint(0, 3))]
    chance.shuffle(owners)
    return [
        Customer(
            id=new_id("cus"),
            account_id=owner,
            name="Ada",
            email=f"{transaction}.{place}@example.com",
            labels={"transaction": transaction, "place": f"{place}"},
        )
        for place, owner in enumerate(owners)
    ]


async def _transaction(database: Database, rows: Sequence[Customer], ending: str) -> None:
    async def fail(_session: AsyncSession) -> None:
        raise Undone

    async with database.transaction() as session:
        # Detached rows, so that none is written twice by a session that ended badly.
        for row in rows:
            await session.execute(insert(Customer).values(_values(row)))
            if ending == "before":
                raise Undone
            log.append(session, row.account_id, CustomerCreated.of(row))
        if ending == "after":
            raise Undone
        if ending == "hook":
            before_commit(session, fail)
        if ending == "refused" and rows:
            await session.execute(insert(Customer).values(_values(rows[0])))


async def _script(database: Database, rows: Sequence[Customer], ending: str) -> None:
    def fail(_transaction: InTransaction) -> Script[None]:
        raise Undone
        yield

    def act(transaction: InTransaction) -> Script[None]:
        for row in rows:
            yield from CUSTOMERS.insert([row])
            if ending == "before":
                raise Undone
            log.append(transaction, row.account_id, CustomerCreated.of(row))
        if ending == "after":
            raise Undone
        if ending == "hook":
            write_before_commit(transaction, fail)
        if ending == "refused":
            yield from CUSTOMERS.insert(rows[:1])

    await database.transact(act)


def _values(row: Customer) -> dict[Any, Any]:
    values = row.model_dump()
    values[Customer.__table__.c["metadata"]] = values.pop("labels")  # type: ignore[attr-defined]
    return {key if not isinstance(key, str) else getattr(Customer, key): one for key, one in values.items()}


async def _main(url: str, account_ids: list[str], seed: str, tasks: int, transactions: int) -> None:
    database = Database(url)
    outcome = await write(database, account_ids, seed, tasks, transactions)
    await database.dispose()
    print(json.dumps(vars(outcome)))


def main() -> None:
    asyncio.run(_main(*json.loads(sys.argv[1])))
