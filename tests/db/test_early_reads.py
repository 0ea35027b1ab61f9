"""Scripts that read for listeners before a COMMIT."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.db.database import Database
from app.db.raw_statements import Script
from tests.db.tables import COUNTERS, Undone, counter
from tests.db.test_transact import adding, broken, orphan, refused, together

pytestmark = pytest.mark.both_databases


async def test_listeners_read_early_what_is_about_to_be_committed(database: Database) -> None:
    seen: list[Any] = []

    def read(items: Sequence[Any]) -> Script[bool]:
        ((value,),) = yield select(COUNTERS.c.value), {}
        seen.append(("read", sorted(items), value))
        return bool(items != [8])

    database.read_early(read, lambda items: seen.append(("prepared", sorted(items))))
    database.on_commit(lambda items: seen.append(("committed", items)))
    values = await together(database, adding(1), refused, adding(2))
    assert isinstance(values[1], Undone)
    assert await database.transact(adding(8)) == 11
    committed = [("committed", [1]), ("committed", [2]), ("committed", [8])]
    if database.is_sqlite:
        # Nothing is prepared where nothing was read.
        early = [("read", [1, 2], 3), ("prepared", [1, 2]), *committed[:2], ("read", [8], 11), committed[2]]
        assert seen == early
    else:
        # Another connection reads as soon.
        assert sorted(seen) == committed


async def test_an_early_read_that_fails_changes_nothing(database: Database) -> None:
    told: list[Any] = []

    def read(_items: Sequence[Any]) -> Script[bool]:
        yield from broken()
        return True

    database.read_early(read, told.append)
    database.on_commit(told.append)
    assert await database.transact(adding(1)) == 1
    assert await together(database, adding(2), adding(4)) in ([3, 7], [7, 5])
    assert (sorted(told), await counter(database)) == ([[1], [2], [4]], 7)


async def test_a_commit_that_fails_after_an_early_read_announces_nothing(database: Database) -> None:
    told: list[Any] = []

    def read(_items: Sequence[Any]) -> Script[bool]:
        yield select(COUNTERS.c.value), {}
        return True

    database.read_early(read, lambda _: None)
    database.on_commit(told.append)
    with pytest.raises(IntegrityError):
        await database.transact(orphan)
    assert told == []
    assert await database.transact(adding(1)) == 1
