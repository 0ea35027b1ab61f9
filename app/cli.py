"""`voltwire`, the program for operators."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import asyncpg
import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from sqlalchemy.exc import DBAPIError

from app import listen as listening
from app import trigger as triggering
from app.accounts import actions as accounts
from app.api.schema import schema_text
from app.auth.actor import Actor, Scope
from app.client import NAMES, Address, Api, ClientError
from app.consents import decisions
from app.consents.models import HostedConsent
from app.crypto import Keyring
from app.database import Database
from app.delivery.mime import load_dkim
from app.delivery.smtp import parse_smtp_url
from app.errors import Refusal, Refusals, not_found
from app.migrations import migrate as migrate_database
from app.server import run_server, run_worker
from app.settings import Settings
from app.telemetry import configure_logs

T = TypeVar("T")
INTERRUPTED = 130  # as shells count: 128 and the number of SIGINT
SCHEMA_FILE = Path(__file__).parents[1] / "schema.graphql"

app = typer.Typer(
    help="Voltwire: the event backbone of a smart-meter data platform. Settings come from VOLTWIRE_… variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
accounts_app = typer.Typer(help="Accounts.", no_args_is_help=True)
consents_app = typer.Typer(help="Hosted consents.", no_args_is_help=True)
app.add_typer(accounts_app, name="accounts")
app.add_typer(consents_app, name="consents")

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")]
ServerUrl = Annotated[str, typer.Option("--url", help="Where the server is.")]
ServerKey = Annotated[
    str | None, typer.Option("--key", envvar="VOLTWIRE_API_KEY", help="An API key or stream token.")
]


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Migrate, then serve the API and the worker in one process."""
    run_server(_ready(), host, port, with_worker=True)


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Migrate, then serve the API alone; workers run apart."""
    run_server(_ready(), host, port, with_worker=False)


@app.command()
def worker() -> None:
    """Migrate, then turn events into deliveries and send them; any number may run on PostgreSQL."""
    run_worker(_ready())


@app.command()
def migrate() -> None:
    """Bring the database to this version's tables."""
    _with_database(migrate_database)


@accounts_app.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="The account's name.")],
    email: Annotated[str, typer.Option(help="The mail address of its first user.")],
) -> None:
    """Create an account; prints its ids and its API key, shown this once, as one JSON object."""

    async def create(database: Database) -> dict[str, str]:
        await migrate_database(database)
        async with database.transaction() as session:
            created = await accounts.create_account(session, name=name, email=email)
            return {
                "accountId": created.account.id,
                "userId": created.user.id,
                "apiKey": created.secret,
            }

    typer.echo(json.dumps(_with_database(create)))


@consents_app.command("revoke")
def revoke_consent(
    consent_id: Annotated[str, typer.Argument(metavar="ID", help="The hosted consent's id, hc_….")],
    reason: Annotated[str | None, typer.Option(help="Why, as the account will see it.")] = None,
) -> None:
    """Revoke a consent on behalf of the end customer who wrote to the privacy contact."""

    async def revoke(database: Database) -> str:
        async with database.transaction() as session:
            consent = await session.get(HostedConsent, consent_id)
            if consent is None:
                raise not_found("hosted consent")
            operator = Actor(consent.account_id, frozenset(Scope))
            return (await decisions.revoke(session, operator, consent_id, reason)).id

    typer.echo(f"Revoked {_with_database(revoke)}.")


@app.command()
def listen(
    url: ServerUrl = "http://127.0.0.1:8000",
    key: ServerKey = None,
    types: Annotated[
        str | None, typer.Option(help='Only these, as in "meter.*,user.created"; all if left out.')
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Begin after this event; from now on if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    forward_to: Annotated[
        str | None, typer.Option(metavar="URL", help="POST each event there as well, signed as a webhook.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(metavar="WHSEC", help="Sign forwarded events with this; else with a new one."),
    ] = None,
) -> None:
    """Follow an account's events until Ctrl-C, over lost connections too."""
    wishes = listening.Wishes(types, after, as_json, forward_to, secret)

    def notice(text: str) -> None:
        typer.echo(text, err=True)

    _as_client(lambda: listening.listen(Address.parse(url), key, wishes, out=typer.echo, notice=notice))


@app.command()
def trigger(
    event: Annotated[str, typer.Argument(metavar="EVENT", help=f"One of {', '.join(NAMES)}.")],
    url: ServerUrl = "http://127.0.0.1:8000",
    key: ServerKey = None,
) -> None:
    """Make an event happen by a real change, to a demo customer of its own."""

    async def run() -> None:
        kind = triggering.event_type(event)
        async with Api(Address.parse(url), key) as api:
            await triggering.trigger(api, kind, typer.echo)

    _as_client(run)


@app.command(hidden=True)
def schema(
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether schema.graphql is up to date.")
    ] = False,
) -> None:
    """Write schema.graphql from the code."""
    text = schema_text()
    if not check:
        SCHEMA_FILE.write_text(text)
    elif not SCHEMA_FILE.exists() or SCHEMA_FILE.read_text() != text:
        _fail("schema.graphql is not up to date: run `voltwire schema` and commit it.")


def _settings() -> Settings:
    """The settings, each of them tried as far as that can be done alone."""
    configure_logs()
    try:
        settings = Settings()
    except ValidationError as error:
        _fail("\n".join(_problem(one) for one in error.errors()))
    try:
        Keyring(settings.secret_keys)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"VOLTWIRE_DATA_DIR: cannot use {settings.data_dir.absolute()}: {error.strerror}.")
    _try("VOLTWIRE_SMTP_URL", lambda: settings.smtp_url and parse_smtp_url(settings.smtp_url))
    _try(
        "VOLTWIRE_DKIM_KEY",
        lambda: (
            settings.dkim_key
            and load_dkim(str(settings.dkim_domain), str(settings.dkim_selector), settings.dkim_key)
        ),
    )
    return settings


def _try(variable: str, use: Callable[[], Any]) -> None:
    try:
        use()
    except ValueError as error:
        _fail(f"{variable}: {error}")


def _problem(error: ErrorDetails) -> str:
    """One wrong value as `VOLTWIRE_NAME: what it must be`; a sentence about several of them names them itself."""
    sentence = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    return f"VOLTWIRE_{str(error['loc'][0]).upper()}: {sentence}" if error["loc"] else sentence


def _ready() -> Settings:
    """The settings, once the database they name has this version's tables."""
    settings = _settings()
    _with_database(migrate_database, settings)
    return settings


def _with_database(act: Callable[[Database], Coroutine[Any, Any, T]], settings: Settings | None = None) -> T:
    """Run an act on the database of the settings; what it refuses is said, with exit code 1."""
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
        _fail("\n".join(one.message for one in error.refusals))
    except Refusal as error:
        _fail(error.message)
    except (DBAPIError, asyncpg.PostgresError, OSError) as error:
        # By its first line only: more of it may quote what was to be written.
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0].rstrip(".")
        _fail(f"VOLTWIRE_DATABASE_URL: the database cannot be used: {reason}.")


def _as_client(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what calls a server; what goes wrong is said, with exit code 1."""
    try:
        asyncio.run(act())
    except ClientError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(1)


def main() -> None:
    app()
