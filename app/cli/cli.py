"""`voltwire`, the program for operators.

Each command imports its own modules when it runs: those of the server take seconds to load, those of a client most of
one, and `voltwire --version` needs none of them.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from app.core.errors import CommandError
from app.core.loading import uncollected

INTERRUPTED = 130  # as shells count: 128 and the number of SIGINT
SCHEMA_FILE = Path(__file__).parents[2] / "schema.graphql"


class Program(TyperGroup):
    """The commands; one that cannot be done prints the reason and exits with code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            _fail(str(error))


app = typer.Typer(
    cls=Program,
    help="Voltwire: the event backbone of a smart-meter data platform. Settings come from VOLTWIRE_… variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
accounts_app = typer.Typer(help="Accounts.", no_args_is_help=True)
consents_app = typer.Typer(help="Hosted consents.", no_args_is_help=True)
app.add_typer(accounts_app, name="accounts")
app.add_typer(consents_app, name="consents")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voltwire {version('voltwire')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The options of every command."""


Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")]
ServerUrl = Annotated[str, typer.Option("--url", help="Where the server is.")]
ServerKey = Annotated[
    str | None, typer.Option("--key", envvar="VOLTWIRE_API_KEY", help="An API key or stream token.")
]
WritingKey = Annotated[
    str | None,
    typer.Option("--key", envvar="VOLTWIRE_API_KEY", help="An API key with the scope that the change needs."),
]


@app.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Migrate, then serve the API and the worker in one process."""
    _admin().serve(host, port, with_worker=True)


@app.command()
def api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Migrate, then serve the API alone; workers run apart."""
    _admin().serve(host, port, with_worker=False)


@app.command()
def worker(
    host: Host = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Serve /healthz, /readyz and /metrics there; nowhere if left out."
        ),
    ] = None,
) -> None:
    """Migrate, then turn events into deliveries and send them; any number may run on PostgreSQL."""
    _admin().work(host, port)


@app.command()
def migrate() -> None:
    """Bring the database to this version's tables."""
    typer.echo(_admin().migrate())


@accounts_app.command("create")
def create_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The account's name.")],
    email: Annotated[str, typer.Option(metavar="EMAIL", help="The mail address of its first user.")],
) -> None:
    """Create an account; prints its ids and its API key, shown this once, as one JSON object."""
    typer.echo(json.dumps(_admin().create_account(name, email)))


@consents_app.command("revoke")
def revoke_consent(
    consent_id: Annotated[str, typer.Argument(metavar="ID", help="The hosted consent's id, hc_….")],
    reason: Annotated[str | None, typer.Option(help="Why, as the account will see it.")] = None,
) -> None:
    """Revoke a consent on behalf of the end customer who wrote to the privacy contact."""
    revoked = _admin().revoke_consent(consent_id, reason)
    typer.echo(f"Revoked {revoked}.")


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
    with uncollected():
        from app.cli.client import Address
        from app.cli.listen import ListenOptions
        from app.cli.listen import listen as follow

    options = ListenOptions(types, after, as_json, forward_to, secret)

    def notice(text: str) -> None:
        typer.echo(text, err=True)

    _as_client(lambda: follow(Address.parse(url), key, options, out=typer.echo, notice=notice))


class TriggerCommand(TyperCommand):
    """A command whose help names the events of the catalogue, which is loaded for nothing but this help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from app.cli.features import whole_catalogue

        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.help = f"One of {', '.join(event.type for event in whole_catalogue())}."
        super().format_help(ctx, formatter)


@app.command(cls=TriggerCommand)
def trigger(
    event: Annotated[str, typer.Argument(metavar="EVENT")],
    url: ServerUrl = "http://127.0.0.1:8000",
    key: WritingKey = None,
) -> None:
    """Make an event happen by a real change, to a demo customer of its own."""
    with uncollected():
        from app.cli.client import Address, Api
        from app.cli.trigger import checked_event
        from app.cli.trigger import trigger as make

    async def run() -> None:
        name = checked_event(event)
        async with Api(Address.parse(url), key) as api:
            await make(api, name, typer.echo)

    _as_client(run)


@app.command("import")
def import_files(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Files of readings, folders of them, or patterns.")
    ],
    profile: Annotated[
        str | None, typer.Option(metavar="P", help="The files' format; found from the content if left out.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be written, and what is wrong.")
    ] = False,
    on_problem: Annotated[
        str | None,
        typer.Option(
            metavar="RULE", help="skip: write the good rows of a file that has wrong ones; refuse: none."
        ),
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="The same as --on-problem skip.")] = False,
    customer_id: Annotated[
        str | None,
        typer.Option(
            "--customer-id", "--customer", metavar="ID", help="The customer whose meters the files are of."
        ),
    ] = None,
    create_missing: Annotated[
        bool, typer.Option("--create-missing", help="Create the customer's meters that are not there.")
    ] = False,
    meter: Annotated[
        str | None, typer.Option(metavar="METER", help="The meter of files that name none.")
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(metavar="CHANNEL", help="IMPORT, EXPORT or GENERATION, if not the profile's."),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="utc, london or settlement, if not the profile's.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="kWh, Wh, MWh, m3, ft3 or hcf, if not the profile's.")
    ] = None,
    calorific_value: Annotated[
        str | None, typer.Option(metavar="MJ", help="Of gas in MJ/m³; 39.5 if left out.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="""Of rows and days, the headers by role: '{"date": "Day"}'."""),
    ] = None,
    url: ServerUrl = "http://127.0.0.1:8000",
    key: WritingKey = None,
) -> None:
    """Send files of readings and wait until they are in; exits with 0 only if everything is."""
    from rich.console import Console

    from app.cli.client import Address, Api
    from app.cli.import_files import Importer, files_of

    options = {
        "profile": profile,
        "dryRun": "true" if dry_run else None,
        "onProblem": "skip" if skip else on_problem,
        "customerId": customer_id,
        "createMissing": "true" if create_missing else None,
        "meter": meter,
        "channel": channel,
        "timezone": timezone,
        "unit": unit,
        "calorificValue": calorific_value,
        "columns": columns,
    }
    all_in = False

    async def run() -> None:
        nonlocal all_in
        given = {name: value for name, value in options.items() if value is not None}
        async with Api(Address.parse(url), key) as api:
            all_in = await Importer(api, given).run(files_of(files), Console(), Console(stderr=True))

    _as_client(run)
    if not all_in:
        sys.exit(1)


@app.command("stand-in")
def stand_in(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The kind of source, such as OCTOPUS.")],
    host: Host = "127.0.0.1",
    port: Port = 0,
    scenario: Annotated[
        str, typer.Option(metavar="S", help="How its meters and the server behave; see the README.")
    ] = "complete",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Other households for each number.")] = 1,
    meter: Annotated[
        list[str] | None, typer.Option(metavar="NUMBER", help="Serve this meter too; may be repeated.")
    ] = None,
) -> None:
    """Serve a local copy of a source with generated households, to try feeds and to test them."""
    from app.cli.stand_in import made, serve

    asyncio.run(serve(made(kind, scenario, seed, meter or []), host, port, typer.echo))


@app.command(hidden=True)
def schema(
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only say whether schema.graphql is up to date and all of it is described."
        ),
    ] = False,
) -> None:
    """Write schema.graphql from the code."""
    from app.graphql.descriptions import undescribed
    from app.schema import build_schema, schema_text

    text = schema_text()
    if check and (missing := undescribed(build_schema()._schema)):
        _fail(f"Describe these in the schema by a docstring: {', '.join(missing)}.")
    if not check:
        SCHEMA_FILE.write_text(text)
    elif not SCHEMA_FILE.exists() or SCHEMA_FILE.read_text() != text:
        _fail("schema.graphql is not up to date: run `voltwire schema` and commit it.")


def _admin() -> ModuleType:
    with uncollected():
        from app.cli import admin

    return admin


def _as_client(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the client of a server until it ends or is interrupted."""
    try:
        asyncio.run(_until_interrupted(act()))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Raises KeyboardInterrupt once SIGINT has ended the work."""
    task = asyncio.create_task(work)
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    waiting = asyncio.create_task(interrupted.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    while not task.done():
        # A part that is just ending may swallow one cancellation; Ctrl-C has to work the first time.
        task.cancel()
        await asyncio.wait([task], timeout=0.2)
    if interrupted.is_set():
        raise KeyboardInterrupt
    task.result()


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    sys.exit(1)


def main() -> None:
    app()
