"""Outages: the errors that mean that the database is away, and their lines in the log.

An outage fails every request and every loop's turn at once. The log gets one line when it begins, and then one every
half minute with the number of failures since.
"""

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import asyncpg
import structlog
from sqlalchemy import exc

from app.core.ids import new_id

LOGGED_EVERY: Final = 30.0
"""Seconds between two lines about one outage."""
RETRY_AFTER: Final = 5
"""Seconds in the `Retry-After` of answers during an outage."""
UNAVAILABLE: Final = "The database cannot be reached at the moment; send this again in a few seconds."

LOST_CONNECTION: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    # The driver's "cannot switch to state …": the server sent an error, and ended the session, while nothing was asked.
    asyncpg.InternalClientError,
    OSError,
)
"""Errors of asyncpg that leave a connection useless."""

# Connection exceptions, insufficient resources, operator intervention, system errors; a transaction that the server
# ended because it was idle; and a server that accepts no writes, such as a standby before its promotion.
_CLASSES: Final = ("08", "53", "57", "58")
_STATES: Final = ("25P03", "25006")
_CANCELED: Final = "57014"
# Serialization failure, deadlock.
_CONFLICTS: Final = ("40001", "40P01")
# BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL.
_SQLITE_CODES: Final = (5, 6, 7, 8, 10, 13, 14, 15)
# SQLSTATE classes: data exception, integrity constraint violation.
_VALUE_STATES: Final = ("22", "23")
_REFUSED: Final = (
    exc.IntegrityError,
    exc.DataError,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    TypeError,
    ValueError,
)
_DATABASE_ERRORS: Final = (
    exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
)
_LONGEST_CHAIN: Final = 10

log = structlog.get_logger(__name__)


class DatabaseAway(ConnectionError):
    """No connection to the database can be made; the message gives the reason and quotes no stored data."""


class DatabaseRefuses(DatabaseAway):
    """The server answers and refuses this URL: a wrong password, no such database, an unknown option."""


def is_database_away(error: BaseException | None) -> bool:
    """Whether an error or one of its causes means that the database is away, and not that a statement is wrong."""
    return any(map(_means_away, _causes(error)))


def is_conflict(error: BaseException | None) -> bool:
    """Whether the database undid a transaction for the sake of another one, so that it may be run again."""
    return any(getattr(one, "sqlstate", None) in _CONFLICTS for one in _causes(error))


def is_transient(error: BaseException) -> bool:
    """Whether the same statements may succeed later: the database was away or busy, and did not refuse their values.

    Handles the errors of SQLAlchemy, and those of the drivers that it does not wrap, as on connecting.
    """
    cause = error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error
    if isinstance(cause, OSError):
        return True
    if isinstance(error, _REFUSED) or isinstance(cause, _REFUSED):
        return False
    state = getattr(cause, "sqlstate", None) or ""
    return not state.startswith(_VALUE_STATES) and isinstance(error, _DATABASE_ERRORS)


def breaks_transaction(error: BaseException) -> bool:
    """Whether an error came from the database and so broke the transaction that it occurred in."""
    return isinstance(error, exc.DBAPIError) or is_database_away(error)


def error_name(error: BaseException) -> str:
    """The class name of an error's first cause, which reveals no stored data.

    An error that the server sent before it closed a connection explains more than the broken connection that follows.
    """
    causes = list(_causes(error))
    sent = [one for one in causes if isinstance(one, asyncpg.PostgresError)]
    sent = [one for one in sent if not isinstance(one, asyncpg.PostgresConnectionError)]
    return type((sent or causes)[-1]).__name__


def outage_reason(error: BaseException) -> str:
    """The reason of an outage, for the log. Messages are quoted only where they cannot contain stored data."""
    for cause in _causes(error):
        if isinstance(cause, DatabaseAway):
            return str(cause)
        if _is_about_connection(cause):
            return f"{type(cause).__name__}: {cause}".partition("\n")[0]
    return error_name(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        yield error
        error = getattr(error, "orig", None) or getattr(error, "original_error", None) or error.__cause__


def _is_about_connection(error: BaseException) -> bool:
    """Whether it is an error of asyncpg itself, and not about a statement's values: those are ValueErrors as well."""
    is_of_driver = isinstance(error, asyncpg.InternalClientError | asyncpg.InterfaceError)
    return is_of_driver and not isinstance(error, ValueError)


def _means_away(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError) or _is_about_connection(error):
        return True
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES
    # Later statements of a session that has lost its connection fail with one of these.
    if isinstance(error, exc.TimeoutError | exc.PendingRollbackError | exc.ResourceClosedError):
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    state = getattr(error, "sqlstate", None) or ""
    return state in _STATES or (state[:2] in _CLASSES and state != _CANCELED)


class Outage:
    """A cause of many failures, which `note` counts; `event` names its lines in the log."""

    def __init__(self, event: str, logged_every: float = LOGGED_EVERY) -> None:
        self._event = event
        self._logged_every = logged_every
        self._id = ""
        self._logged_at = -logged_every
        self._latest: BaseException | None = None
        self._during: Counter[str] = Counter()

    def note(self, error: BaseException, during: str) -> str:
        """Counts a failure, and gives the id of its line in the log."""
        is_due = time.monotonic() - self._logged_at >= self._logged_every
        self._latest = error
        self._during[during] += 1
        if is_due:
            self._log()
        return self._id

    def _log(self) -> None:
        self._id, self._logged_at = new_id("err"), time.monotonic()
        error, failures = self._latest, self._during.total()
        assert error is not None  # noqa: S101 - something was counted
        log.warning(
            self._event,
            error_id=self._id,
            reason=outage_reason(error),
            failures=failures,
            during=dict(self._during),
        )
        self._during.clear()
        self._latest = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        loop.call_later(self._logged_every, self._log_rest, self._id)

    def _log_rest(self, identifier: str) -> None:
        """Logs the failures since the line of this id, unless a later line did."""
        if identifier == self._id and self._during:
            self._log()


DATABASE: Final = Outage("database_unavailable")


def report(event: str, error: BaseException, **about: Any) -> str:
    """Logs a fault with its traceback, or counts it if the database is away; gives its id in the log."""
    if is_database_away(error):
        return DATABASE.note(error, event)
    identifier = new_id("err")
    log.error(event, error_id=identifier, exc_info=(type(error), error, error.__traceback__), **about)
    return identifier


class OutageFilter(logging.Filter):
    """Counts the errors of a lost database that libraries log with a traceback each, and drops their lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not is_database_away(error):
            return True
        assert error is not None  # noqa: S101 - None is no outage
        DATABASE.note(error, record.name)
        return False
