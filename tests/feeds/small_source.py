"""A small kind of source, handed to a world as a kind of its own: a list of meters behind a key."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.feeds.source import Fetched, FetchedMeter, Setting, SettingType, SourceKind, SourceMeter, Window
from app.meters.enums import MeterType
from tests.accounts.state import mutation
from tests.meters.asking import make_customer, make_meter, run
from tests.services.receiver import Answer, Receiver
from tests.support import TestAccount, World
from tests.support import world as open_world

KEY = "sk_live_4f1c9a_nobody_may_see"
FEED = "id kind name status attention settings lastRunAt nextRunAt createdAt updatedAt"
CREATE = mutation("createFeed", f"feed {{ {FEED} }}")
UPDATE = mutation("updateFeed", f"feed {{ {FEED} }}")
DELETE = mutation("deleteFeed", "deletedId")
CHECK = mutation("checkFeed", f"feed {{ {FEED} }} discoveredMeters {{ number type channel description }}")
SET = mutation("setMeterFeed", "meter { id feed { id } backfills(first: 5) { nodes { id status } } }")
BACKFILL = (
    "id from to status readingsChanged createdAt completedAt meter { id } feed { id } "
    "parts { number from to status readingsChanged attempts error }"
)
START = mutation("startBackfill", f"backfill {{ {BACKFILL} }}")
CANCEL = mutation("cancelBackfill", f"backfill {{ {BACKFILL} }}")


class SmallSource:
    """`GET /meters` lists the meters of the key in `x-key`."""

    def __init__(
        self, credentials: Mapping[str, str], _settings: Mapping[str, str], exchange: Exchange
    ) -> None:
        self._headers = {"x-key": credentials["apiKey"]}
        self._exchange = exchange

    async def discover(self) -> Sequence[SourceMeter]:
        found = await self._exchange.get("meters", headers=self._headers)
        if isinstance(found, dict):
            return [SourceMeter(one, MeterType.ELECTRICITY, description=said) for one, said in found.items()]
        return [SourceMeter(one, MeterType.ELECTRICITY, description="At home") for one in found]

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        raise NotImplementedError


SMALL = SourceKind(
    kind=FeedKind.OCTOPUS,
    base_url="https://small.example",
    credentials=("apiKey",),
    open=SmallSource,
    settings=(
        Setting("accountNumber", "The account, such as A-1234.", re.compile(r"A-[0-9]{4}")),
        Setting("serial", "The meter's serial number.", re.compile(r"[A-Z0-9]{1,20}"), SettingType.METER),
    ),
    requests_a_minute=6_000_000,
)
GUARDED = SourceKind(
    kind=FeedKind.GLOWMARKT,
    base_url="https://guarded.example",
    credentials=("username", "password"),
    open=SmallSource,
    settings=(Setting("site", "The site.", re.compile("[a-z]+"), is_required=True),),
    meter_types=(MeterType.ELECTRICITY,),
)
KINDS = {FeedKind.OCTOPUS: SMALL, FeedKind.GLOWMARKT: GUARDED}


@asynccontextmanager
async def feeding(database_url: str, **settings: Any) -> AsyncIterator[World]:
    """A world with the small kinds, whose feeds may reach this machine."""
    given = {"feed_allow_networks": "127.0.0.0/8", **settings}
    async with open_world(database_url, source_kinds=KINDS, **given) as opened:
        yield opened


def listing(receiver: Receiver, *numbers: str) -> None:
    """Has the source list these meters to the key, and refuse any other."""

    def answer(request: Any) -> Answer:
        if request.headers.get("x-key") != KEY:
            return Answer(401, body=b'{"detail": "Invalid API key."}')
        return Answer(200, body=orjson.dumps(numbers))

    receiver.on("/meters", answer)


@dataclass(frozen=True)
class Fed:
    """An account with a feed."""

    world: World
    account: TestAccount
    feed_id: str

    async def feed(self) -> dict[str, Any]:
        query = f"query ($id: ID!) {{ feed(id: $id) {{ {FEED} }} }}"
        found: dict[str, Any] = (await self.world.data(query, {"id": self.feed_id}, key=self.account.key))[
            "feed"
        ]
        return found

    async def run(self, document: str, **values: Any) -> dict[str, Any]:
        return await run(self.world, self.account, document, **values)

    async def customer_and_meter(self, number: str = "9999999999999") -> tuple[str, str]:
        customer_id = await make_customer(self.world, self.account, f"{number}@example.com")
        meter = await make_meter(self.world, self.account, customer_id, number)
        return customer_id, meter["id"]

    async def set_feed(self, meter_id: str, **values: Any) -> dict[str, Any]:
        payload = await self.run(SET, meterId=meter_id, feedId=self.feed_id, **values)
        assert payload["userErrors"] == []
        meter: dict[str, Any] = payload["meter"]
        return meter

    async def backfills(self, meter_id: str) -> list[dict[str, Any]]:
        """The backfills of a meter, newest first."""
        query = f"query ($id: ID!) {{ meter(id: $id) {{ backfills {{ nodes {{ {BACKFILL} }} }} }} }}"
        found = (await self.world.data(query, {"id": meter_id}, key=self.account.key))["meter"]
        nodes: list[dict[str, Any]] = found["backfills"]["nodes"]
        return nodes


async def fed(world: World, receiver: Receiver | None = None, key: str = KEY) -> Fed:
    """An account with a feed of the small source, at the receiver if there is one."""
    account = await world.account()
    settings = None if receiver is None else {"baseUrl": receiver.url("")}
    payload = await run(
        world,
        account,
        CREATE,
        kind="OCTOPUS",
        name="Homes",
        settings=settings,
        credentials={"apiKey": key},
    )
    assert payload["userErrors"] == []
    return Fed(world, account, payload["feed"]["id"])
