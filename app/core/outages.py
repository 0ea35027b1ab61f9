"""Outages: which errors say that the database is away, and how the log tells of them.

An outage fails every request, look and attempt at once. The log has one line when it begins, and then one every half
minute with the number of failures since, whoever reports them.
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

TOLD_EVERY: Final = 30.0
"""Seconds between two lines about one outage."""
RETRY_AFTER: Final = 5
"""Seconds after which a client that met an outage is told to ask again."""
UNAVAILABLE: Final = "The database cannot be reached at the moment; send this again in a few seconds."

LOST_CONNECTION: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    # The driver's "cannot switch to state …": an answer came, or the connection went, while it did something else.
    asyncpg.InternalClientError,
    OSError,
)
"""Errors of asyncpg on a connection that is of no use any more."""

# Connection exceptions, insufficient resources, operator intervention, system errors; a transaction that was ended
# because its process stood still; and a server that takes no writes, such as a standby before its promotion.
_CLASSES: Final = ("08", "53", "57", "58")
_STATES: Final = ("25P03", "25006")
_CANCELED: Final = "57014"
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
    """No connection to the database can be had; the message says why, and quotes nothing that is stored."""


class DatabaseRefuses(DatabaseAway):
    """The server answers and lets nobody in by this URL: a wrong password, no such database, an unknown option."""


def is_lost(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that the database is away, and not that a statement is wrong."""
    return any(map(_says_lost, _causes(error)))


def may_pass(error: BaseException) -> bool:
    """Whether the same statements may succeed later: the database was away or busy, and did not refuse their values.

    It knows the errors of SQLAlchemy and those that the drivers raise past it, as on connecting.
    """
    cause = error.orig if isinstance(error, exc.StatementError) and error.orig is not None else error
    if isinstance(cause, OSError):
        return True
    if isinstance(error, _REFUSED) or isinstance(cause, _REFUSED):
        return False
    state = getattr(cause, "sqlstate", None) or ""
    return not state.startswith(_VALUE_STATES) and isinstance(error, _DATABASE_ERRORS)


def breaks_transaction(error: BaseException) -> bool:
    """Whether an error within a transaction was the database's, after which nothing more can be done in it."""
    return isinstance(error, exc.DBAPIError) or is_lost(error)


def kind_of(error: BaseException) -> str:
    """The name of the error that another came from, which tells nothing of what is stored."""
    return type(list(_causes(error))[-1]).__name__


def reason_of(error: BaseException) -> str:
    """The reason of an outage, for the log; the message of a statement's error may quote what is stored."""
    return next((str(one) for one in _causes(error) if isinstance(one, DatabaseAway)), kind_of(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, the one that it came from, and so on."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        yield error
        error = getattr(error, "orig", None) or getattr(error, "original_error", None) or error.__cause__


def _says_lost(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | asyncpg.InternalClientError):
        return True
    # Its subclasses that are ValueErrors are about what a statement was given.
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CODES
    # A session whose connection went says only this of what follows.
    if isinstance(error, exc.TimeoutError | exc.PendingRollbackError | exc.ResourceClosedError):
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    state = getattr(error, "sqlstate", None) or ""
    return state in _STATES or (state[:2] in _CLASSES and state != _CANCELED)


class Outage:
    """One cause of failures that come in numbers. `note` each of them; `event` names the line in the log."""

    def __init__(self, event: str, told_every: float = TOLD_EVERY) -> None:
        self._event = event
        self._told_every = told_every
        self._id = ""
        self._told_at = -told_every
        self._latest: BaseException | None = None
        self._during: Counter[str] = Counter()

    def note(self, error: BaseException, during: str) -> str:
        """Count a failure; gives the id of the line in the log that stands for it."""
        is_first = time.monotonic() - self._told_at >= self._told_every
        self._latest = error
        self._during[during] += 1
        if is_first:
            self._tell()
        return self._id

    def _tell(self) -> None:
        self._id, self._told_at = new_id("err"), time.monotonic()
        error, failures = self._latest, self._during.total()
        assert error is not None  # noqa: S101 - something was counted
        log.warning(
            self._event,
            error_id=self._id,
            reason=reason_of(error),
            failures=failures,
            during=dict(self._during),
        )
        self._during.clear()
        self._latest = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        loop.call_later(self._told_every, self._tell_rest, self._id)

    def _tell_rest(self, identifier: str) -> None:
        """Of those counted since the line of this id, unless one has been told since."""
        if identifier == self._id and self._during:
            self._tell()


DATABASE: Final = Outage("database_unavailable")


def report(event: str, error: BaseException, **about: Any) -> str:
    """Log a fault of ours with its traceback, or count it where the database is away; gives its id in the log."""
    if is_lost(error):
        return DATABASE.note(error, event)
    identifier = new_id("err")
    log.error(event, error_id=identifier, exc_info=(type(error), error, error.__traceback__), **about)
    return identifier


class OutageFilter(logging.Filter):
    """Counts what libraries log of a lost database, with a traceback each, instead of letting it through."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not is_lost(error):
            return True
        assert error is not None  # noqa: S101 - None is not lost
        DATABASE.note(error, record.name)
        return False
