"""Payloads of mutations are compiled, with the responses of execution field by field."""

from typing import Any

import orjson
import pytest

from app.auth.actor import Actor, Scope
from app.graphql.bounds.limits import Limits
from app.graphql.context import Context
from app.graphql.engine import Engine
from tests.accounts.state import mutation, reads
from tests.meters.asking import METER, NUMBERS, make_consent, make_customer, make_meter, run
from tests.support import World, the_schema

pytestmark = pytest.mark.both_databases

LIMITS = Limits(10_000, 20, 100, 100_000)
ENGINES = {compiled: Engine(the_schema(), LIMITS, compiled=compiled) for compiled in (True, False)}
PAGE = "meters(first: 2) { nodes { number } pageInfo { hasNextPage } }"
SELECTIONS = [
    "meter { id number }",
    "__typename meter { __typename again: id id }",
    f"meter {{ {METER} }}",
    "userErrors { code message field } meter { metadata customer { id email metadata createdAt } }",
    f"meter {{ customer {{ name {PAGE} hostedConsents {{ nodes {{ id status }} }} }} }}",
    'meter { number intervalData(lookback: "1d") { total } customer { name } }',
    "meter { ... on Node { id } ...F } } } fragment F on Meter { status type customer { id ",
    "meter { id status @include(if: $yes) number @skip(if: $yes) }",
    "meter { id } more: meter { status } again: meter { customer { name } }",
]


async def ask(
    world: World, account_id: str, document: str, *, compiled: bool, **variables: Any
) -> dict[str, Any]:
    """The response by one of the engines, its keys in their order."""
    engine = ENGINES[compiled]
    prepared = engine.prepare(document, None, authenticated=True)
    context = Context(world.services, Actor(account_id, frozenset(Scope)))
    response: dict[str, Any] = await engine.execute(prepared, variables, context)
    return response


@pytest.mark.parametrize("selection", SELECTIONS)
async def test_a_payload_is_the_same_compiled_or_not(world: World, selection: str) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account, metadata={"a": "1"})
    await make_consent(world, account, customer_id)
    await make_meter(world, account, customer_id, NUMBERS[1])
    declared = "$input: CreateMeterInput!" + (", $yes: Boolean = true" if "$yes" in selection else "")
    document = f"mutation ({declared}) {{ createMeter(input: $input) {{ {selection} }} }}"
    given = {
        "customerId": customer_id,
        "number": NUMBERS[0],
        "metadata": {"b": "2"},
        "description": "note",
    }
    # Requests with the same key have the same payload.
    keyed = {**given, "idempotencyKey": "k"}
    answers = [
        orjson.dumps(await ask(world, account.id, document, compiled=compiled, input=keyed, yes=yes))
        for yes in (True, False)
        for compiled in (True, False)
    ]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert b"errors" not in answers[0]
    refused = [
        orjson.dumps(await ask(world, account.id, document, compiled=compiled, input=given, yes=True))
        for compiled in (True, False)
    ]
    assert b"null" in refused[0]
    assert refused[0] == refused[1]


async def test_a_repeated_payload_has_its_stored_columns_and_the_relations_of_now(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    document = mutation("createMeter", "meter { description status customer { name } }")
    keyed = {"customerId": customer_id, "number": NUMBERS[0], "description": "old", "idempotencyKey": "k"}
    first = await run(world, account, document, **keyed)
    meter_id = (await run(world, account, mutation("createMeter", "meter { id }"), **keyed))["meter"]["id"]
    await run(world, account, mutation("updateMeter", "meter { id }"), meterId=meter_id, description="new")
    await run(
        world, account, mutation("updateCustomer", "customer { id }"), customerId=customer_id, name="Eda"
    )
    again = [
        await ask(world, account.id, document, compiled=compiled, input=keyed) for compiled in (True, False)
    ]
    expected = {**first, "meter": {**first["meter"], "customer": {"name": "Eda"}}}
    assert [one["data"]["createMeter"] for one in again] == [expected] * 2
    await run(world, account, mutation("deleteMeter", "deletedId"), meterId=meter_id)
    gone = [
        orjson.dumps(await ask(world, account.id, document, compiled=compiled, input=keyed))
        for compiled in (True, False)
    ]
    assert gone[0] == gone[1]


async def test_several_mutations_of_one_document_are_answered_alike(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meter_id = (await make_meter(world, account, customer_id))["id"]
    document = """mutation ($meter: ID!, $customer: ID!) {
        a: updateMeter(input: {meterId: $meter, description: "a"}) {
            meter { description customer { name } } }
        b: updateCustomer(input: {customerId: $customer, name: "Eda"}) { customer { name meters { nodes { id } } } }
        c: updateMeter(input: {meterId: $meter, description: "c"}) {
            meter { description customer { name } } userErrors { code } }
        d: disableMeter(input: {meterId: "mtr_0"}) { meter { id } userErrors { code field } }
        e: deleteMeter(input: {meterId: $meter}) { deletedId }
    }"""
    other_id = (await make_meter(world, account, customer_id, NUMBERS[1]))["id"]
    answers = []
    for compiled, one in ((True, meter_id), (False, other_id)):
        await run(
            world, account, mutation("updateCustomer", "customer { id }"), customerId=customer_id, name="Ada"
        )
        found = await ask(world, account.id, document, compiled=compiled, meter=one, customer=customer_id)
        assert "errors" not in found
        del found["data"]["b"]["customer"]["meters"]
        answers.append(orjson.dumps(found).decode().replace(one, "ID"))
    assert answers[0] == answers[1]
    assert '"a":{"meter":{"description":"a","customer":{"name":"Ada"}}}' in answers[0]
    assert '"c":{"meter":{"description":"c","customer":{"name":"Eda"}},"userErrors":[]}' in answers[0]


async def test_a_payload_of_a_rows_own_columns_reads_nothing(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    for selection, count in (("meter { id number metadata }", 0), ("meter { status customer { name } }", 1)):
        number = NUMBERS[count]
        with reads(world.database) as statements:
            await ask(
                world,
                account.id,
                mutation("createMeter", selection),
                compiled=True,
                input={"customerId": customer_id, "number": number},
            )
        assert len(statements) == count
