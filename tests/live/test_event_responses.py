"""Responses to events compiled into one statement equal those executed one by one."""

import gc
import random
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from app.auth.actor import Actor
from app.events import log
from app.events.models import EventRecord
from app.graphql.bounds.limits import Limits
from app.graphql.engine import Engine
from app.live.event_responses import respond
from app.live.subscription_request import SubscriptionRequest
from tests.accounts.state import reads
from tests.graphql.compiled.documents import Document, Documents, dropping
from tests.graphql.compiled.scene import Scene, random_account
from tests.services.postgres import Postgres
from tests.support import World, the_schema
from tests.support import world as open_world

pytestmark = pytest.mark.usefixtures("within_half_hour")

WIDE = Limits(tokens=100_000, depth=100, aliases=10_000, cost=10**9, comparisons=500_000)
DOCUMENTS = 80
FLAT = "subscription { events { id name type sequence occurredAt data } }"
NESTED = """subscription { events { id cursor
    ... on MeterCreatedEvent { meter { number customer { name } } }
    ... on MeterDataReceivedEvent { from meter { id hostedConsent { valid } } } } }"""


@pytest.fixture
def world(furnished_world: World) -> World:
    return furnished_world


async def log_of(world: World, viewer: Actor) -> tuple[list[EventRecord], str]:
    """All events that the viewer may see, and the log's epoch."""
    async with world.database.reading() as session:
        stream = await log.stream(session, viewer.account_id)
        return await log.page(session, viewer, 0, stream.last_sequence, 10_000), stream.epoch


async def answers(
    world: World,
    engine: Engine,
    viewer: Actor,
    document: Document,
    records: Sequence[EventRecord],
    epoch: str,
) -> list[str]:
    prepared = engine.prepare(document.text, None, authenticated=True)
    request = SubscriptionRequest.of(engine, prepared, document.variables)
    jobs = [(request, record) for record in records]
    responses = await respond(world.services, engine, viewer, epoch, jobs)
    for response in responses:
        if "errors" in response:
            response["errors"].sort(key=lambda error: orjson.dumps(error))
    return [orjson.dumps(response, option=orjson.OPT_INDENT_2).decode() for response in responses]


@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(20))
@dropping
async def test_random_subscriptions_have_the_same_answers_as_the_ordinary_way(
    world: World, scene: Scene, turn: int, seed: str
) -> None:
    chance = random.Random(seed)
    compiled, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    documents = Documents(ordinary.schema, scene.known, chance)
    for _ in range(DOCUMENTS):
        document = documents.subscription()
        viewer = scene.viewers[chance.choice(["admin", "read", "bound", "bound"])]
        records, epoch = await log_of(world, viewer)
        some = sorted(
            chance.sample(records, min(len(records), chance.choice([1, 2, 7]))), key=lambda r: r.sequence
        )
        expected = await answers(world, ordinary, viewer, document, some, epoch)
        assert await answers(world, compiled, viewer, document, some, epoch) == expected, document
    # The dropped objects are collected here, and not in another test.
    gc.collect()


@pytest.mark.parametrize(("query", "statements"), [(FLAT, 0), (NESTED, 1)])
async def test_many_events_are_one_statement_and_flat_ones_none(
    world: World, scene: Scene, query: str, statements: int
) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    records, epoch = await log_of(world, viewer)
    with reads(world.database) as seen:
        found = await answers(world, engine, viewer, Document(query, {}), records, epoch)
    assert len(seen) == statements
    assert [orjson.loads(one)["data"]["events"]["id"] for one in found] == [one.id for one in records]


async def test_an_event_that_is_gone_from_the_log_is_answered_as_it_is_at_hand(
    world: World, scene: Scene
) -> None:
    """Retention has removed the event since its commit."""
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    records, epoch = await log_of(world, viewer)
    gone, kept = records[0], records[-1]
    async with world.database.transaction() as session:
        await log._remove_through(session, viewer.account_id, gone.sequence)
    found = await answers(world, engine, viewer, Document(NESTED, {}), [gone, kept], epoch)
    assert [orjson.loads(one)["data"]["events"]["id"] for one in found] == [gone.id, kept.id]


async def test_several_requests_share_a_call_and_keep_their_order(world: World, scene: Scene) -> None:
    engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
    records, epoch = await log_of(world, viewer)
    texts = (
        FLAT,
        NESTED,
        "subscription { a: events { ... on MeterCreatedEvent { meter { intervalData { total } } } id } }",
    )
    requests = [
        SubscriptionRequest.of(engine, engine.prepare(text, None, authenticated=True), None) for text in texts
    ]
    jobs = [(request, record) for record in records[-3:] for request in requests]
    found = await respond(world.services, engine, viewer, epoch, jobs)
    identifiers = [next(iter(one["data"].values()))["id"] for one in found]
    assert identifiers == [record.id for _, record in jobs]
    assert [next(iter(one["data"])) for one in found] == ["events", "events", "a"] * 3


INTERVALS = 'meter { intervalData(granularity: DAY, lookback: "1w") { intervals { %s } } }'


async def test_fields_of_one_path_are_not_taken_for_each_other(world: World, scene: Scene) -> None:
    """This holds for two documents at once, and for two types of events in one document."""
    viewer = scene.viewers["admin"]
    records, epoch = await log_of(world, viewer)
    data = next(one for one in records if one.type == "meter_data.received")
    made = next(one for one in records if one.type == "meter.created" and one.subject_id == data.subject_id)
    texts = [
        f"subscription {{ events {{ ... on MeterDataReceivedEvent {{ {INTERVALS % 'startAt'} }} }} }}",
        f"subscription {{ events {{ ... on MeterDataReceivedEvent {{ {INTERVALS % 'quality missingCount'} }} }} }}",
        f"""subscription {{ events {{ ... on MeterCreatedEvent {{ {INTERVALS % "startAt"} }}
            ... on MeterDataReceivedEvent {{ {INTERVALS % "quality missingCount"} }} }} }}""",
    ]
    found = []
    for engine in (Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)):
        requests = [
            SubscriptionRequest.of(engine, engine.prepare(text, None, authenticated=True), None)
            for text in texts
        ]
        jobs = [(request, record) for record in (made, data) for request in requests]
        answers = await respond(world.services, engine, viewer, epoch, jobs)
        found.append([orjson.dumps(one) for one in answers])
        first = answers[3]["data"]["events"]["meter"]["intervalData"]["intervals"][0]
        assert list(first) == ["startAt"]
    assert found[0] == found[1]


async def test_without_a_database_what_is_at_hand_is_answered(
    postgres: Postgres, migrated_postgres: str
) -> None:
    """The other fields are reported as failed."""
    url = await postgres.create_database(migrated_postgres)
    async with open_world(url) as world:
        scene = await random_account(world, random.Random(1))
        engine, viewer = Engine(the_schema(), WIDE), scene.viewers["admin"]
        records, epoch = await log_of(world, viewer)
        record = next(one for one in records if one.type == "customer.created")
        await postgres.drop_database(url)

        async def answered(query: str) -> dict[str, Any]:
            (one,) = await answers(world, engine, viewer, Document(query, {}), [record], epoch)
            answer: dict[str, Any] = orjson.loads(one)
            return answer

        assert (await answered(FLAT))["data"]["events"]["id"] == record.id
        failed = await answered(
            "subscription { events { id ... on CustomerCreatedEvent { customer { name } } } }"
        )
        assert failed["data"] is None
        [error] = failed["errors"]
        assert (error["extensions"]["code"], error["extensions"]["retryAfter"]) == ("INTERNAL", 5)
