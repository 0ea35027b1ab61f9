"""The operators' commands, over the database and the server; `cli.py` reads their arguments.

The server's modules are imported by the commands that serve: the others need the database alone.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DBAPIError

from app.accounts import actions as accounts
from app.consents import actions as consents
from app.consents import decisions
from app.core.crypto import Keyring
from app.core.errors import CommandError, Refusal, Refusals
from app.core.loading import uncollected
from app.core.outages import DatabaseRefuses, is_database_away
from app.core.settings import Settings, unknown_variables
from app.core.telemetry import configure_logs
from app.db.database import Database
from app.db.migrations import is_ours
from app.db.migrations import migrate as migrate_database
from app.outbound.mail.dkim import signer_of
from app.outbound.mail.smtp_url import parse_smtp_url

T = TypeVar("T")

log = structlog.get_logger(__name__)


def serve(host: str, port: int, *, with_worker: bool) -> None:
    """Migrate, then serve until a signal."""
    with uncollected():
        from app.server.server import run_server

    run_server(_ready(), host, port, with_worker=with_worker)


def work(host: str, port: int | None) -> None:
    """Migrate, then work until a signal."""
    with uncollected():
        from app.server.server import run_worker

    run_worker(_ready(), host, port)


def migrate() -> str:
    """Migrate; returns a sentence that says between which steps."""
    before, after = _with_database(migrate_database)
    if before == after:
        return f"The database is at step {after} already: there was nothing to do."
    if before is None:
        return f"Made the database's tables, at step {after}."
    return f"Brought the database from step {before} to step {after}."


def create_account(name: str, email: str) -> dict[str, str]:
    """Create an account; returns its ids and its key."""

    async def create(database: Database) -> dict[str, str]:
        async with database.transaction() as session:
            created = await accounts.create_account(session, name=name, email=email)
            return {"accountId": created.account.id, "userId": created.user.id, "apiKey": created.secret}

    return _with_known_database(create)


def revoke_consent(consent_id: str, reason: str | None) -> str:
    """Revoke a consent; returns its id."""

    async def revoke(database: Database) -> str:
        async with database.transaction() as session:
            operator = await consents.operator_of(session, consent_id)
            return (await decisions.revoke(session, operator, consent_id, reason)).id

    return _with_known_database(revoke)


def _read_settings() -> Settings:
    """The settings as they are written. Raises CommandError where one is wrong by itself."""
    configure_logs()
    # The database, its key and mails hold secrets and personal data: only the owner may read the files.
    os.umask(0o077)
    try:
        settings = Settings()
    except ValidationError as error:
        raise CommandError("\n".join(_problem(one) for one in error.errors())) from None
    for sentence in unknown_variables(os.environ):
        log.warning(sentence)
    return settings


def _settings() -> Settings:
    """The settings, each of them tried as far as that needs no other part."""
    settings = _read_settings()
    try:
        Keyring(settings.secret_keys)
    except ValueError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(
            f"VOLTWIRE_DATA_DIR: cannot use {settings.data_dir.absolute()}: {error.strerror}."
        ) from None
    _try_setting("VOLTWIRE_SMTP_URL", lambda: settings.smtp_url and parse_smtp_url(settings.smtp_url))
    _try_setting("VOLTWIRE_OPERATIONS_FILE", lambda: _read_operations(settings.operations_file))
    _try_setting("VOLTWIRE_DKIM_KEY", lambda: signer_of(settings))
    return settings


def _read_operations(path: Path | None) -> None:
    if path is not None:
        from app.graphql.persisted import read_operations

        read_operations(path)


def _try_setting(variable: str, use: Callable[[], Any]) -> None:
    try:
        use()
    except ValueError as error:
        raise CommandError(f"{variable}: {error}") from None


def _problem(error: ErrorDetails) -> str:
    """A wrong value as `VOLTWIRE_NAME: what it must be`; a sentence about several settings names them itself."""
    sentence = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    return f"VOLTWIRE_{str(error['loc'][0]).upper()}: {sentence}" if error["loc"] else sentence


def _ready() -> Settings:
    """The settings; their database has this version's tables by now, unless its server is away."""
    settings = _settings()
    _with_database(_migrate_if_there, settings)
    return settings


async def _migrate_if_there(database: Database) -> None:
    """Migrate, unless the database's server is away: the process waits for it later. Any other error ends the start."""
    try:
        await migrate_database(database)
    except Exception as error:
        if database.is_sqlite or isinstance(error, DatabaseRefuses) or not is_database_away(error):
            raise


def _with_known_database(act: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run an act on a database that exists already, after bringing it to this version's tables.

    Otherwise a command in another folder than the server's would make a database that nobody serves.
    """
    settings = _read_settings()
    path = settings.database.removeprefix("sqlite:///")
    if path != settings.database and not Path(path).exists():
        raise CommandError(
            f"There is no database at {path}. Run this in the folder that the server was started in, set "
            "VOLTWIRE_DATA_DIR or VOLTWIRE_DATABASE_URL as for the server, or make one with `voltwire migrate`."
        )

    async def run(database: Database) -> T:
        if not await is_ours(database):
            raise CommandError(
                "VOLTWIRE_DATABASE_URL: the database has no tables of Voltwire yet; run `voltwire migrate` first."
            )
        await migrate_database(database)
        return await act(database)

    return _with_database(run)


def _with_database(act: Callable[[Database], Coroutine[Any, Any, T]], settings: Settings | None = None) -> T:
    """Run an act on the database of the settings. Raises CommandError for its refusals and for the database's."""
    chosen = settings or _settings()

    async def run() -> T:
        database = Database(chosen.database)
        try:
            return await act(database)
        finally:
            await database.dispose()

    try:
        return asyncio.run(run())
    except Refusals as error:
        raise CommandError("\n".join(one.message for one in error.refusals)) from None
    except Refusal as error:
        raise CommandError(error.message) from None
    except (DBAPIError, asyncpg.PostgresError, OSError) as error:
        # Only its first line: the others may quote the values that were to be written.
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0].rstrip(".")
        raise CommandError(f"VOLTWIRE_DATABASE_URL: the database cannot be used: {reason}.") from None
