"""Errors that mean an outage, and the few lines of the log for many of them."""

import sqlite3

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound, PendingRollbackError
from structlog.testing import capture_logs

from app.core.outages import (
    DatabaseAway,
    Outage,
    breaks_transaction,
    error_name,
    is_database_away,
    outage_reason,
)
from app.core.periodic import retry_until_written


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
def test_errors_that_mean_that_the_database_is_away(error: Exception) -> None:
    assert is_database_away(error)
    outer = ValueError()
    outer.__cause__ = error
    assert is_database_away(outer)


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
def test_errors_that_do_not_mean_that_the_database_is_away(error: Exception | None) -> None:
    assert not is_database_away(error)


def test_only_the_databases_own_errors_break_a_transaction() -> None:
    refused = IntegrityError("INSERT", {}, asyncpg.UniqueViolationError("taken"))
    for error in (refused, PendingRollbackError(), DatabaseAway("it is away")):
        assert breaks_transaction(error)
    # Faults in preparing the values to write, such as a missing template or account.
    for fault in (FileNotFoundError("a template"), NoResultFound(), KeyError("name")):
        assert not breaks_transaction(fault)


def test_an_error_is_named_after_its_first_cause() -> None:
    driver = DBAPIError("INSERT", {}, OSError())
    driver.orig.__cause__ = asyncpg.UniqueViolationError("a value")
    assert (error_name(driver), error_name(KeyError("a value"))) == ("UniqueViolationError", "KeyError")
    closed = asyncpg.ConnectionDoesNotExistError("closed in the middle of operation")
    closed.__cause__ = ConnectionResetError()
    assert error_name(closed) == "ConnectionResetError"
    # As the driver chains them: the server has ended an idle transaction, and the next statement was sent in vain.
    closed.__cause__ = asyncpg.IdleInTransactionSessionTimeoutError("terminating connection")
    closed.__cause__.__cause__ = BrokenPipeError()
    assert error_name(closed) == "IdleInTransactionSessionTimeoutError"


STATE = "cannot switch to state 12; another operation (2) is in progress"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (DatabaseAway("no answer within 5 s"), "no answer within 5 s"),
        (asyncpg.InternalClientError(STATE), f"InternalClientError: {STATE}"),
        (asyncpg.InterfaceError("connection is closed"), "InterfaceError: connection is closed"),
        # These quote the values that a statement was given.
        (asyncpg.exceptions._base.DataError("invalid input for query argument $1: 'Ada'"), "DataError"),
        (asyncpg.UniqueViolationError("Key (name)=(Ada) already exists"), "UniqueViolationError"),
    ],
)
def test_the_reason_of_an_outage_quotes_the_driver_and_nothing_stored(error: Exception, reason: str) -> None:
    assert outage_reason(error) == reason
    wrapped = DBAPIError("INSERT", {}, OSError("Ada"))
    assert wrapped.orig is not None
    wrapped.orig.__cause__ = error
    assert outage_reason(wrapped) == reason


async def test_writing_is_retried_and_logged_until_it_succeeds_or_is_refused() -> None:
    failing = DBAPIError("UPDATE", {}, sqlite3.OperationalError("no such table: a_name"))
    refusing = IntegrityError("UPDATE", {}, sqlite3.IntegrityError("a value"))
    left: list[Exception | None] = [failing, failing, None, refusing]

    async def write() -> None:
        if (error := left.pop(0)) is not None:
            raise error

    with capture_logs() as logs:
        await retry_until_written("record a mail", write)
    told = {"event": "worker_loop_failed", "log_level": "warning", "loop": "record a mail"}
    assert logs == [told | {"error": "OperationalError", "pause": pause} for pause in (0.1, 0.2)]
    with pytest.raises(IntegrityError):
        await retry_until_written("record a mail", write)


async def test_an_outage_is_one_line_and_then_one_with_a_count() -> None:
    outage, other = Outage("database_unavailable"), Outage("database_unavailable", logged_every=0)
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
        outage._log_rest(ids.pop())
        other.note(DatabaseAway("no answer within 5 s"), "dispatch")
    assert [(one["failures"], one["during"]) for one in logs] == [
        (419, {"request": 419}),
        (1, {"dispatch": 1}),
    ]
    assert logs[1]["reason"] == "no answer within 5 s"
