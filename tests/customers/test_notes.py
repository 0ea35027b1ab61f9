"""An account's notes on its customers and meters are hidden from viewers bound to one customer."""

import dataclasses
from typing import Any

import pytest

from app.accounts import actions as accounts
from app.graphql.bounds.limits import Limits
from app.graphql.engine import Engine
from tests.live.listening import listening
from tests.meters.asking import NUMBERS, make_customer, make_meter
from tests.support import TestAccount, World, the_schema

NOTED = {"description": "pays late", "metadata": {"risk": "high"}}
HIDDEN = {"description": None, "metadata": {}}
METER = "description metadata customer { metadata meters { nodes { description metadata } } }"
DOCUMENT = f"""query ($meter: ID!, $customer: ID!, $event: ID!) {{
    meter(id: $meter) {{ {METER} }} meters {{ nodes {{ {METER} }} }}
    customer(id: $customer) {{ metadata }} customers {{ nodes {{ metadata }} }}
    node(id: $meter) {{ ... on Meter {{ {METER} }} }}
    event(id: $event) {{ data ... on MeterCreatedEvent {{ meter {{ {METER} }} }} }}
    events {{ nodes {{ data ... on MeterCreatedEvent {{ meter {{ {METER} }} customer {{ metadata }} }} }} }}
}}"""
LIVE = f"""subscription ($after: String) {{ events(after: $after) {{
    data ... on MeterCreatedEvent {{ meter {{ {METER} }} }} ... on CustomerCreatedEvent {{ customer {{ metadata }} }}
}} }}"""
FOUND = """query ($wanted: Metadata) {
    meters(filter: {metadata: $wanted}) { nodes { number } } customers(filter: {metadata: $wanted}) { nodes { name } }
}"""


@dataclasses.dataclass
class Scene:
    world: World
    account: TestAccount
    token: str
    customer_id: str
    meter_id: str

    async def ids(self) -> dict[str, str]:
        """The variables of the document; the event is the meter's meter.created."""
        data = await self.world.data(
            "{ events(filter: {types: [METER_CREATED]}) { nodes { id } } }", key=self.account.key
        )
        return {
            "meter": self.meter_id,
            "customer": self.customer_id,
            "event": data["events"]["nodes"][0]["id"],
        }


@pytest.fixture
async def scene(world: World) -> Scene:
    account = await world.account()
    customer = await make_customer(world, account, metadata=NOTED["metadata"])
    meter = await make_meter(world, account, customer, NUMBERS[0], **NOTED)
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        token, _until = await accounts.create_stream_token(
            session, admin, world.services.keyring, customer_id=customer
        )
    return Scene(world, account, token, customer, meter["id"])


def notes_of(value: Any) -> list[Any]:
    """All metadata and descriptions in an answer."""
    if isinstance(value, list):
        return [note for one in value for note in notes_of(one)]
    if not isinstance(value, dict):
        return []
    mine = [value[name] for name in NOTED if name in value]
    return mine + [note for name, one in value.items() if name not in NOTED for note in notes_of(one)]


@pytest.mark.parametrize("compiled", [True, False])
async def test_queries_show_notes_to_the_account_only(scene: Scene, compiled: bool) -> None:
    engine = Engine(the_schema(), Limits(2000, 12, 30, 100_000), compiled=compiled)
    world, ids = dataclasses.replace(scene.world, engine=engine), await scene.ids()
    shown = notes_of(await world.data(DOCUMENT, ids, key=scene.account.key))
    hidden = notes_of(await world.data(DOCUMENT, ids, key=scene.token))
    assert len(shown) == len(hidden) > 30
    assert [one for one in shown if one not in NOTED.values()] == []
    assert [one for one in hidden if one not in HIDDEN.values()] == []


async def test_the_data_of_events_keeps_its_form(scene: Scene) -> None:
    query = "query ($event: ID!) { event(id: $event) { data } }"
    ids = {"event": (await scene.ids())["event"]}
    mine = (await scene.world.data(query, ids, key=scene.account.key))["event"]["data"]
    theirs = (await scene.world.data(query, ids, key=scene.token))["event"]["data"]
    assert theirs == {**mine, **HIDDEN, "customer": {**mine["customer"], "metadata": {}}}
    assert mine == {**theirs, **NOTED, "customer": {**mine["customer"], "metadata": NOTED["metadata"]}}


async def test_live_events_show_notes_to_the_account_only(scene: Scene) -> None:
    after = (await scene.world.data("{ eventStream { oldestCursor } }", key=scene.account.key))["eventStream"]
    async with listening(scene.world) as live:
        notes = {}
        for key in (scene.account.key, scene.token):
            actor = (await scene.world.authenticator.authenticate(key)).actor
            _, sink = await live.subscribe(actor, LIVE, {"after": after["oldestCursor"]})
            responses = await sink.count(3 if key == scene.account.key else 2)
            assert all("errors" not in one for one in responses)
            notes[key] = notes_of(responses)
    assert [one for one in notes[scene.account.key] if one not in NOTED.values()] == []
    assert [one for one in notes[scene.token] if one not in HIDDEN.values()] == []
    assert len(notes[scene.account.key]) == len(notes[scene.token]) > 5


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_filter_finds_nothing_by_notes_that_are_not_shown(scene: Scene, compiled: bool) -> None:
    engine = Engine(the_schema(), Limits(2000, 12, 30, 5000), compiled=compiled)
    world = dataclasses.replace(scene.world, engine=engine)

    async def found(key: str, wanted: dict[str, str] | None) -> int:
        data = await world.data(FOUND, {"wanted": wanted}, key=key)
        return len(data["meters"]["nodes"]) + len(data["customers"]["nodes"])

    for wanted, mine, theirs in (
        (NOTED["metadata"], 2, 0),
        ({"risk": "low"}, 0, 0),
        ({}, 2, 2),
        (None, 2, 2),
    ):
        assert await found(scene.account.key, wanted) == mine  # type: ignore[arg-type]
        assert await found(scene.token, wanted) == theirs  # type: ignore[arg-type]
