"""`voltwire stand-in`: a local copy of a source, to try feeds with and to test against."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence

import orjson

from app.core.errors import CommandError
from app.feeds.kinds import SOURCE_KINDS
from app.feeds.stand_ins.kinds import STAND_INS
from app.feeds.stand_ins.meters import ServedMeter
from app.feeds.stand_ins.scenarios import SCENARIOS, Scenario
from app.feeds.stand_ins.server import OWN, StandIn, listener, serving
from app.meters.numbers import InvalidMeterNumber, parse

Echo = Callable[[str], None]


def made(kind: str, scenario: str, seed: int, numbers: Sequence[str]) -> StandIn:
    """The stand-in of a kind, not yet serving. Raises CommandError."""
    known = {one.name: stand_in for one, stand_in in STAND_INS.items()}
    stand_in = known.get(kind.strip().upper())
    if stand_in is None:
        raise CommandError(f'There is no stand-in of "{kind}": choose one of {", ".join(known)}.')
    return stand_in(_scenario(scenario), seed, numbers=[_number(one) for one in numbers])


async def serve(stand_in: StandIn, host: str, port: int, echo: Echo) -> None:
    """Serves until SIGINT or SIGTERM. Raises CommandError where the port is taken."""
    try:
        bound = listener(host, port)
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
        ) from None
    ended = asyncio.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, ended.set)
    async with serving(stand_in, bound) as url:
        for line in introduction(stand_in, url):
            echo(line)
        await ended.wait()
    counts = stand_in.counts
    echo(f"Requests: {counts.total}, of which {len(counts.refused)} were outside the source's limits.")


def introduction(stand_in: StandIn, url: str) -> Iterator[str]:
    """Lines that say where the stand-in is, which meters it has, and how to make a feed of it."""
    own = f"{url.removesuffix(stand_in.base_path)}{OWN}"
    yield f"{stand_in.kind.name} stands in at {url}"
    yield f"Scenario {stand_in.scenario.name}: {stand_in.scenario.says}"
    yield ""
    yield "Its meters:"
    types = SOURCE_KINDS[stand_in.kind].meter_types
    for meter in stand_in.meters.values():
        if meter.household.type in types:
            yield from _lines(stand_in, meter)
    yield ""
    yield f"Its credentials: {_json(stand_in.credentials)}"
    yield "A feed of it, by a server that has VOLTWIRE_FEED_ALLOW_NETWORKS=127.0.0.0/8:"
    yield ""
    yield create_feed(stand_in, url)
    yield ""
    yield f"GET {own}/requests tells what it was asked for, and what it refused."
    yield f"POST {own}/settle lets late half-hours arrive and corrects estimates."
    yield "Ctrl-C ends it."


def create_feed(stand_in: StandIn, url: str) -> str:
    """The mutation that makes a feed of a stand-in, ready to be copied."""
    settings = _literal({"baseUrl": url, **stand_in.settings})
    return (
        f'mutation {{ createFeed(input: {{ kind: {stand_in.kind.name}, name: "Stand-in", settings: {settings}, '
        f"credentials: {_literal(stand_in.credentials)} }}) "
        "{ feed { id status attention } userErrors { code message } } }"
    )


def _lines(stand_in: StandIn, meter: ServedMeter) -> Iterator[str]:
    kind = meter.household.type.name.lower()
    settings = stand_in.meter_settings(meter)
    more = f", with settings {_json(settings)} in setMeterFeed" if settings else ""
    yield f"  {meter.number:<13}  {kind:<11}  {meter.label}, {meter.scenario.name}{more}"
    if meter.export_number is not None and stand_in.has_export_numbers:
        yield f"  {meter.export_number:<13}  {kind:<11}  Its export"


def _scenario(name: str) -> Scenario:
    scenario = SCENARIOS.get(name.strip().lower())
    if scenario is None:
        raise CommandError(f'There is no scenario "{name}": choose one of {", ".join(SCENARIOS)}.')
    return scenario


def _number(written: str) -> str:
    try:
        return parse(written).core
    except InvalidMeterNumber as error:
        raise CommandError(f'--meter "{written}": {error}') from None


def _json(content: object) -> str:
    return orjson.dumps(content).decode()


def _literal(content: Mapping[str, str]) -> str:
    """An object of texts as a literal of GraphQL, whose keys have no quotation marks."""
    return f"{{ {', '.join(f'{name}: {_json(value)}' for name, value in content.items())} }}"
