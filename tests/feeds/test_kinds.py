"""The kinds of sources as the README tells of them, the registries that know them, and the meters that they take."""

import re
from pathlib import Path

import pytest

from app.feeds.enums import FeedKind
from app.feeds.fetching.scheduling import DAYS_READ_AGAIN
from app.feeds.kinds import SOURCE_KINDS
from app.feeds.source import SettingType, SourceKind
from app.feeds.stand_ins.kinds import STAND_INS
from tests.accounts.state import unchanged
from tests.feeds.small_source import CREATE, SET, Fed, feeding
from tests.meters.asking import run
from tests.support import World

ROOT = Path(__file__).parents[2]
README, SCHEMA = ROOT / "README.md", ROOT / "schema.graphql"


def test_every_kind_has_a_source_and_a_stand_in() -> None:
    assert set(SOURCE_KINDS) == set(STAND_INS) == set(FeedKind)


@pytest.mark.parametrize("kind", SOURCE_KINDS.values(), ids=[kind.name for kind in SOURCE_KINDS])
def test_the_readme_has_the_credentials_and_settings_of_a_kind(kind: SourceKind) -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith(f"| `{kind.kind.name}` |")]
    assert len(rows) == 1
    _, _, credentials, of_feed, of_meter, _, _ = rows[0].split("|")
    assert names(credentials) == list(kind.credentials)
    assert names(of_feed) == [one.name for one in kind.settings if one.of is SettingType.FEED]
    assert names(of_meter) == [one.name for one in kind.settings if one.of is SettingType.METER]
    assert set(STAND_INS[kind.kind].credentials) == set(kind.credentials)


def test_the_api_says_which_credentials_a_kind_takes() -> None:
    description = " ".join(
        SCHEMA.read_text().split("input CreateFeedInput")[1].split("credentials: JSON!")[0].split()
    )
    said = {
        kind: re.findall(r"\w+", given)
        for given, kinds in re.findall(r"{([^{}]+)} of ([A-Z0-9, and]+)", description)
        for kind in re.findall(r"[A-Z0-9]+", kinds)
    }
    assert said == {kind.kind.name: list(kind.credentials) for kind in SOURCE_KINDS.values()}


def test_the_readme_says_how_many_days_a_daily_fetch_reads() -> None:
    assert ("each day, at a time of its own, the last seven days" in README.read_text()) is (
        DAYS_READ_AGAIN == 7
    )


async def test_a_source_without_gas_gets_no_gas_meter(small_world: World) -> None:
    async with feeding(small_world.services.settings.database_url or "") as world:
        account = await world.account()
        given = {"kind": "GLOWMARKT", "name": "Homes", "settings": {"site": "a"}}
        made = await run(world, account, CREATE, **given, credentials={"username": "a", "password": "b"})
        feed = Fed(world, account, made["feed"]["id"])
        _, gas_id = await feed.customer_and_meter("3938424403")
        async with unchanged(world):
            payload = await feed.run(SET, meterId=gas_id, feedId=feed.feed_id)
        [error] = payload["userErrors"]
        assert (error["code"], error["field"], error["message"]) == (
            "INVALID",
            ["feedId"],
            "GLOWMARKT has electricity meters only: give this gas meter a feed of another kind.",
        )
        _, meter_id = await feed.customer_and_meter()
        assert (await feed.set_feed(meter_id))["feed"] == {"id": feed.feed_id}


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)
