"""Which errors are outages, and how few lines of the log tell of many of them."""

import sqlite3

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from structlog.testing import capture_logs

from app.outages import DatabaseAway, Outage, is_lost


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("of SQLite")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        DatabaseAway("it is away"),
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminated"),
        asyncpg.DiskFullError("no space"),
        asyncpg.ReadOnlySQLTransactionError("a standby"),
        sqlite_error(sqlite3.SQLITE_BUSY),
        sqlite_error(sqlite3.SQLITE_IOERR_READ),
        PendingRollbackError(),
        DBAPIError("SELECT", {}, asyncpg.ConnectionDoesNotExistError("gone")),
    ],
)
def test_what_says_that_the_database_is_away(error: Exception) -> None:
    assert is_lost(error)
    outer = ValueError()
    outer.__cause__ = error
    assert is_lost(outer)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("wrong"),
        FileNotFoundError("a template"),
        asyncpg.DataError("invalid input for query argument $1"),
        asyncpg.UndefinedTableError("no such table"),
        asyncpg.QueryCanceledError("statement timeout"),
        asyncpg.UniqueViolationError("taken"),
        sqlite_error(sqlite3.SQLITE_ERROR),
    ],
)
def test_what_does_not(error: Exception | None) -> None:
    assert not is_lost(error)


async def test_an_outage_is_one_line_and_then_one_with_a_count() -> None:
    outage, other = Outage("database_unavailable"), Outage("database_unavailable", told_every=0)
    with capture_logs() as logs:
        ids = {outage.note(ConnectionRefusedError(), "request") for _ in range(420)}
    [line] = logs
    assert ids == {line.pop("error_id")}
    assert line == {
        "event": "database_unavailable",
        "log_level": "warning",
        "reason": "ConnectionRefusedError",
        "failures": 1,
        "during": {"request": 1},
    }
    with capture_logs() as logs:
        outage._tell_rest(ids.pop())
        other.note(DatabaseAway("no answer within 5 s"), "dispatch")
    assert [(one["failures"], one["during"]) for one in logs] == [
        (419, {"request": 419}),
        (1, {"dispatch": 1}),
    ]
    assert logs[1]["reason"] == "no answer within 5 s"
