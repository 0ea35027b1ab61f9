"""Which errors are outages, and how few lines of the log tell of many of them."""

import sqlite3

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound, PendingRollbackError
from structlog.testing import capture_logs

from app.core.outages import DatabaseAway, Outage, breaks_transaction, is_lost, kind_of
from app.core.periodic import insist


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


def test_only_the_databases_own_errors_break_a_transaction() -> None:
    refused = IntegrityError("INSERT", {}, asyncpg.UniqueViolationError("taken"))
    for error in (refused, PendingRollbackError(), DatabaseAway("it is away")):
        assert breaks_transaction(error)
    # Faults of what was to be written, such as a mail without its template or its account.
    for fault in (FileNotFoundError("a template"), NoResultFound(), KeyError("name")):
        assert not breaks_transaction(fault)


def test_an_error_is_called_by_what_it_came_from() -> None:
    driver = DBAPIError("INSERT", {}, OSError())
    driver.orig.__cause__ = asyncpg.UniqueViolationError("a value")
    assert (kind_of(driver), kind_of(KeyError("a value"))) == ("UniqueViolationError", "KeyError")


async def test_who_insists_tells_of_each_failure_and_ends_with_a_success_or_a_refusal() -> None:
    failing = DBAPIError("UPDATE", {}, sqlite3.OperationalError("no such table: a_name"))
    refusing = IntegrityError("UPDATE", {}, sqlite3.IntegrityError("a value"))
    left: list[Exception | None] = [failing, failing, None, refusing]

    async def write() -> None:
        if (error := left.pop(0)) is not None:
            raise error

    with capture_logs() as logs:
        await insist("record a mail", write)
    told = {"event": "worker_loop_failed", "log_level": "warning", "loop": "record a mail"}
    assert logs == [told | {"error": "OperationalError", "pause": pause} for pause in (0.1, 0.2)]
    with pytest.raises(IntegrityError):
        await insist("record a mail", write)


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
