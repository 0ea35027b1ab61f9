"""Transactions that are one script: prebuilt statements and plain rows, without a session.

`Database.transact` runs an action that is given a `Transaction` and returns a script. The same script runs within a
session's transaction by `run_script`; then the session takes the place of the `Transaction`.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.raw_statements import Script
from app.db.sql import is_sqlite

T = TypeVar("T")

_ERASE, _ERASE_IF_CHEAP = text("PRAGMA secure_delete=ON"), text("PRAGMA secure_delete=FAST")


class InTransaction(Protocol):
    """The present transaction: a session, or the `Transaction` of a script. `info` keeps what is left for its end."""

    @property
    def info(self) -> dict[Any, Any]: ...


class Transaction:
    """A transaction that is one script."""

    def __init__(self, *, on_sqlite: bool) -> None:
        self.info: dict[Any, Any] = {}
        self.on_sqlite = on_sqlite


def is_on_sqlite(transaction: InTransaction) -> bool:
    """Whether the transaction's database is SQLite, for scripts that take fewer statements on PostgreSQL."""
    if isinstance(transaction, Transaction):
        return transaction.on_sqlite
    assert isinstance(transaction, AsyncSession)  # noqa: S101 - there is no third
    return is_sqlite(transaction)


Act = Callable[[InTransaction], Script[T]]
"""Makes the script of a transaction."""
Ending = Callable[[InTransaction], Script[None]]


def write_before_commit(transaction: InTransaction, ending: Ending) -> None:
    """Runs a script just before this transaction commits; each script once."""
    endings = transaction.info.setdefault("endings", [])
    if ending not in endings:
        endings.append(ending)


def erasing(on_sqlite: bool, script: Script[T]) -> Script[T]:
    """Runs a script whose deletions leave nothing of their rows in SQLite's file; on PostgreSQL this is vacuum's work.

    A script that fails leaves the setting on, which costs its connection time only, until the next such script.
    """
    if not on_sqlite:
        return (yield from script)
    yield _ERASE, {}
    value = yield from script
    yield _ERASE_IF_CHEAP, {}
    return value


def announce(transaction: InTransaction, items: Sequence[Any]) -> None:
    """Hands the items to the `on_commit` listeners once the transaction has committed."""
    transaction.info.setdefault("announced", []).extend(items)


def ended(transaction: InTransaction) -> Script[None]:
    """The scripts that were left for the transaction's end."""
    for ending in transaction.info.get("endings", ()):
        yield from ending(transaction)


def whole(act: Act[T], transaction: InTransaction) -> Script[T]:
    """The script of an action with that of its transaction's end."""
    value = yield from act(transaction)
    yield from ended(transaction)
    return value


def as_sqlalchemys(error: BaseException, dialect: Dialect) -> BaseException:
    """A driver's error as SQLAlchemy would raise it; other errors as they are."""
    if isinstance(error, sqlite3.Error):
        return DBAPIError.instance(None, None, error, sqlite3.Error, dialect=dialect)
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return IntegrityError(None, None, error)
    if isinstance(error, asyncpg.PostgresError):
        return DBAPIError(None, None, error)
    return error
