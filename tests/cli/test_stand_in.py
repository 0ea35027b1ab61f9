"""`voltwire stand-in`: serves until it is interrupted, and says how to make a feed of it."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.cli.stand_in import create_feed, introduction
from app.feeds.enums import FeedKind
from app.feeds.kinds import SOURCE_KINDS
from app.feeds.stand_ins.kinds import STAND_INS
from app.feeds.stand_ins.scenarios import SCENARIOS
from app.feeds.stand_ins.server import listener, serving
from tests.operators import VOLTWIRE
from tests.services.forked import Piped
from tests.support import World, world

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("VOLTWIRE_")}


async def start(*arguments: str) -> Piped:
    return await Piped.start(VOLTWIRE, "stand-in", *arguments, environment=ENVIRONMENT)


async def refused(*arguments: str) -> str:
    """The one line with which it ends."""
    process = await start(*arguments)
    output, errors = await process.communicate()
    assert (process.returncode, output) == (1, b"")
    [line] = errors.decode().splitlines()
    return line


async def test_it_serves_until_it_is_interrupted() -> None:
    process = await start("n3rgy", "--scenario", "gaps", "--meter", "13 1234 567 8907")
    told = []
    async for line in process.stdout:
        told.append(line.decode().rstrip())
        if told[-1] == "Ctrl-C ends it.":
            break
    url = told[0].removeprefix("N3RGY stands in at ")
    assert told[1] == "Scenario gaps: Half-hours and whole days are missing for good."
    assert "  1312345678907  electricity  Asked for, gaps" in told
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url, headers={"x-api-key": "stand-in-key-of-n3rgy"})
        assert "1312345678907" in answer.json()["entries"]
        requests = (await client.get(f"{url}/_stand-in/requests")).json()
        assert [one["target"] for one in requests["requests"]] == ["/"]
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert output.decode() == "Requests: 1, of which 0 were outside the source's limits.\n"


@pytest.mark.parametrize("kind", STAND_INS, ids=lambda kind: kind.name)
def test_it_lists_the_meters_that_a_feed_of_it_can_have(kind: FeedKind) -> None:
    told = "\n".join(introduction(STAND_INS[kind](), "http://127.0.0.1:9001"))
    has_gas = kind not in (FeedKind.PERSE, FeedKind.ELECTRALINK)
    assert ("  gas  " in told, "Its export" in told) == (has_gas, kind is FeedKind.OCTOPUS)


async def test_a_wrong_argument_gets_a_sentence() -> None:
    kinds = ", ".join(kind.name for kind in STAND_INS)
    assert await refused("GASWORKS") == f'There is no stand-in of "GASWORKS": choose one of {kinds}.'
    assert await refused("OCTOPUS", "--scenario", "sunny") == (
        f'There is no scenario "sunny": choose one of {", ".join(SCENARIOS)}.'
    )
    assert (await refused("OCTOPUS", "--meter", "12")).startswith('--meter "12": A meter number has')


async def test_a_taken_port_gets_a_sentence() -> None:
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert await refused("OCTOPUS", "--port", str(port)) == (
            f"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port."
        )


@pytest.fixture(scope="module")
async def open_to_loopback(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("stand-in")
    async with world(f"sqlite:///{folder / 'voltwire.db'}", feed_allow_networks="127.0.0.0/8") as opened:
        yield opened


@pytest.mark.parametrize("kind", STAND_INS, ids=lambda kind: kind.name)
async def test_the_mutation_can_be_copied_and_the_feed_checked(
    kind: FeedKind, open_to_loopback: World
) -> None:
    stand_in, account = STAND_INS[kind](), await open_to_loopback.account()
    async with serving(stand_in) as url:
        made = (await open_to_loopback.data(create_feed(stand_in, url), key=account.key))["createFeed"]
        assert (made["userErrors"], made["feed"]["status"]) == ([], "ACTIVE")
        check = (
            'mutation { checkFeed(input: { feedId: "%s" }) '
            "{ feed { status attention } discoveredMeters { number } userErrors { message } } }"
        )
        checked = (await open_to_loopback.data(check % made["feed"]["id"], key=account.key))["checkFeed"]
    assert (checked["feed"], checked["userErrors"]) == ({"status": "ACTIVE", "attention": None}, [])
    assert stand_in.counts.refused == []
    assert stand_in.counts.total > 0


def test_every_stand_in_has_the_credentials_and_settings_of_its_kind() -> None:
    for kind, stand_in in STAND_INS.items():
        assert set(stand_in.credentials) == set(SOURCE_KINDS[kind].credentials)
        assert set(stand_in.settings) <= {setting.name for setting in SOURCE_KINDS[kind].settings}
