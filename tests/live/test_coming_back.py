"""Many subscriptions at once share what they read, and each is as exact as one that reads alone."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Executable

from app.core.errors import ApiError
from app.customers import actions as customers
from app.db.database import Database, run_script
from app.db.raw_statements import Rows
from app.graphql.bounds.limits import Limits
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.live.subscription_request import SubscriptionRequest, shared_request
from tests.accounts.state import reads
from tests.events.broadcasters import becomes
from tests.live.listening import SEQUENCES, Collector, Listening, listening
from tests.live.test_hub import NESTED, cursor_at, owner
from tests.support import World, the_schema
from tests.support import world as open_world

MANY = 1000
MISSED = 20
LIMITS = Limits(tokens=2000, depth=12, aliases=30, cost=5000)


@pytest.mark.both_databases
async def test_no_commit_of_another_process_is_missed_while_many_subscribe(world: World) -> None:
    """Each begins behind all that was committed before it, and gets all that was committed after it."""
    url = world.services.settings.database_url
    async with listening(world, rings=False, poll_interval=0.02) as live, open_world(str(url)) as other:
        actor = await owner(world)
        writer = Listening(other, live.hub)
        committed, is_over = 1, False
        joined: list[tuple[int, int, Collector]] = []

        async def write() -> None:
            nonlocal committed
            while not is_over:
                await writer.customer(actor)
                committed += 1

        async def join() -> None:
            for _ in range(25):
                # At any moment of a read that others wait for.
                await asyncio.sleep(random.uniform(0, 0.01))
                before = committed
                _, sink = await live.subscribe(actor)
                # The writer may know of its latest commit a moment later.
                joined.append((before, committed + 1, sink))

        writing = asyncio.create_task(write())
        await asyncio.gather(*(join() for _ in range(20)))
        is_over = True
        await writing
        await writer.customer(actor)
        last = committed + 1
        for before, after, sink in joined:
            await sink.until(lambda sink=sink: bool(sink.payloads) and sink.sequences[-1] == last)
            first = sink.sequences[0]
            assert before < first <= after + 1
            assert sink.sequences == list(range(first, last + 1))


class Distant(Database):
    """A database whose answers to reads are on their way until `arrives` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.arrives = asyncio.Event()
        self.arrives.set()
        self.under_way = 0

    async def read(self, statement: Executable, parameters: dict[str, Any]) -> Rows:
        rows = await super().read(statement, parameters)
        self.under_way += 1
        await self.arrives.wait()
        self.under_way -= 1
        return rows


@pytest.mark.both_databases
async def test_a_read_that_has_begun_is_not_shared_with_later_subscriptions(world: World) -> None:
    actor = await owner(world)
    distant = Distant(world.services.settings.database)
    far = replace(world, services=replace(world.services, database=distant))
    async with listening(far, poll_interval=60) as live:
        await live.subscribe(actor)
        distant.arrives.clear()
        early = asyncio.create_task(live.subscribe(actor))
        await becomes(lambda: distant.under_way == 1)
        await live.customer(actor)
        late = asyncio.create_task(live.subscribe(actor))
        # The later one asks while the answer to the earlier one is on its way.
        await asyncio.sleep(0)
        distant.arrives.set()
        (_, before), (_, after) = await asyncio.gather(early, late)
        await live.customer(actor)
        await before.count(2)
        await after.count(1)
        assert (before.sequences, after.sequences) == ([2, 3], [3])
    await distant.dispose()


@pytest.mark.both_databases
async def test_subscriptions_of_one_moment_share_one_read_of_the_logs_end(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        _, first = await live.subscribe(actor)
        with reads(world.database) as statements:
            joined = await asyncio.gather(*(live.subscribe(actor) for _ in range(MANY)))
        assert len([statement for statement in statements if "streams" in statement]) == 1
        await live.customer(actor)
        for _, sink in joined:
            await sink.count(1)
            assert sink.sequences == [2]
        assert first.sequences == [2]
        assert live.hub.stats.executions == 1


@pytest.mark.both_databases
async def test_all_that_resume_at_once_get_everything_in_order(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        await live.customers(actor, MISSED)
        begin = await cursor_at(world, actor, 1)
        joined = await asyncio.gather(*(live.subscribe(actor, NESTED, {"after": begin}) for _ in range(MANY)))
        for _, sink in joined:
            await sink.count(MISSED)
            assert sink.sequences == list(range(2, 2 + MISSED))
        assert live.hub.stats.pages == 1
        await live.customer(actor)
        for _, sink in joined:
            await sink.count(MISSED + 1)
            assert sink.sequences == list(range(2, 3 + MISSED))


async def test_different_cursors_share_a_read_where_one_page_has_them_all(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        await live.customers(actor, 400)
        places = [(number * 7) % MISSED for number in range(200)]
        # A subscription that is far behind delays nobody.
        begins = {place: await cursor_at(world, actor, 381 + place) for place in range(MISSED)}
        far = live.subscribe(actor, variables={"after": await cursor_at(world, actor, 0)})
        near = [live.subscribe(actor, variables={"after": begins[place]}) for place in places]
        (_, slow), *joined = await asyncio.gather(far, *near)
        for place, (_, sink) in zip(places, joined, strict=True):
            await sink.count(MISSED - place)
            assert sink.sequences == list(range(382 + place, 402))
        await slow.count(401)
        assert slow.sequences == list(range(1, 402))
        assert live.hub.stats.pages <= 8


async def test_a_page_that_was_just_read_is_not_shown_to_a_later_subscription(world: World) -> None:
    async with listening(world) as live:
        actor = await owner(world)
        begin = await cursor_at(world, actor, 1)
        customer = await live.customer(actor)
        for number in range(5):
            async with world.database.transaction() as session:
                await run_script(session, customers.update(actor, customer.id, {"name": f"Ada {number}"}))
            joined = await asyncio.gather(
                *(live.subscribe(actor, NESTED, {"after": begin}) for _ in range(10))
            )
            for _, sink in joined:
                (response,) = await sink.count(1)
                assert response["data"]["events"]["customer"]["name"] == f"Ada {number}"
        assert live.hub.stats.pages == 5


PLAIN = "subscription($after: String, $types: [EventType!]) { events(after: $after, filter: {types: $types}) { id } }"
DOCUMENTS = {
    "plain": PLAIN,
    "a default": PLAIN.replace("$after: String", '$after: String = "d"'),
    "required": PLAIN.replace("$after: String", "$after: String!"),
    "literal": 'subscription { events(after: "l") { id } }',
    "used twice": "subscription($after: String) { events(after: $after) { id __typename @include(if: $x) } }".replace(
        "($after: String)", "($after: String, $x: Boolean!)"
    ),
    "elsewhere": """subscription($after: String) { events(after: $after) {
        ... on CustomerCreatedEvent { customer { meters(after: $after) { nodes { id } } } } } }""",
    "a fragment": "subscription($after: String) { ...E } fragment E on Subscription { events(after: $after) { id } }",
}
VARIABLES: list[dict[str, Any] | None] = [
    None,
    {},
    {"after": None},
    {"after": "a"},
    {"after": "b"},
    {"after": "a", "types": ["METER_CREATED"]},
    {"after": "a", "types": "METER_CREATED"},
    {"after": "b", "types": ["METER_CREATED", "USER_CREATED"]},
    {"after": "a", "types": ["NOTHING"]},
    {"after": 1},
    {"after": True},
    {"after": ["a"]},
    {"after": "a\x00"},
    {"after": "\ud800"},
    {"after": "a", "other": {"deep": [1, 1.5, None]}},
    {"after": "a", "x": True},
    {"after": "b", "x": True},
    {"after": "a", "x": False},
    {"after": "a", "x": "yes"},
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_shared_request_is_what_it_would_be_alone(name: str) -> None:
    engine = Engine(the_schema(), LIMITS)
    try:
        prepared = engine.prepare(DOCUMENTS[name], None, authenticated=True)
    except RequestErrors as error:
        raise AssertionError(error.errors) from None
    kept: list[SubscriptionRequest] = []

    def alone(variables: dict[str, Any] | None) -> Any:
        try:
            request = SubscriptionRequest.of(engine, prepared, variables)
        except (ApiError, RequestErrors) as error:
            return str(error), getattr(error, "errors", None)
        return request.after, request.filter, request.key

    def shared(variables: dict[str, Any] | None) -> Any:
        try:
            request, after = shared_request(engine, prepared, variables)
        except (ApiError, RequestErrors) as error:
            return str(error), getattr(error, "errors", None)
        kept.append(request)
        return after, request.filter, request.key

    for variables in (*VARIABLES, *reversed(VARIABLES), *VARIABLES):
        assert shared(variables) == alone(variables), variables
    assert len(set(map(id, kept))) < len(kept) / 2


@pytest.mark.parametrize(
    "text",
    [
        "subscription($a: String, $x: Boolean!) { events(after: $a) @include(if: $x) { id } }",
        "subscription($a: String, $x: Boolean!) { ... @skip(if: $x) { events(after: $a) { id } } }",
        "subscription($x: Boolean!) { ...E } fragment E on Subscription { events @skip(if: $x) { id } }",
        "subscription($a: String, $b: String) { events(after: $a) { id } more: events(after: $b) { id } }",
        "subscription($a: String, $b: String) { events(after: $a) { id } events(after: $b) { id } }",
    ],
)
def test_a_document_has_one_cursor_whatever_its_variables_are(text: str) -> None:
    """Shared requests rely on it: with another cursor for other variables they would be mistaken."""
    with pytest.raises(RequestErrors):
        Engine(the_schema(), LIMITS).prepare(text, None, authenticated=True)


def test_a_request_is_shared_for_as_long_as_it_is_used() -> None:
    engine = Engine(the_schema(), LIMITS)
    prepared = engine.prepare(SEQUENCES, None, authenticated=True)
    first, cursor = shared_request(engine, prepared, {"after": "a"})
    second, other = shared_request(engine, prepared, {"after": "b"})
    assert first is second
    assert (cursor, other) == ("a", "b")
    assert shared_request(engine, prepared, {"after": "b", "filter": {}})[0] is not first
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert shared_request(engine, prepared, {"after": "a", "unused": deep})[1] == "a"


async def test_one_account_shares_no_cursor_with_another(world: World) -> None:
    async with listening(world) as live:
        one, other = await owner(world), await owner(world)
        await live.customers(one, 3)
        begin = await cursor_at(world, one, 1)
        _, mine = await live.subscribe(one, variables={"after": begin})
        with pytest.raises(RequestErrors):
            await live.subscribe(other, variables={"after": begin})
        _, theirs = await live.subscribe(other)
        await mine.count(3)
        await live.customer(other)
        await theirs.count(1)
        assert (mine.sequences, theirs.sequences) == ([2, 3, 4], [2])
