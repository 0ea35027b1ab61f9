import asyncio
from typing import Any

import pytest

from app.accounts import actions as accounts
from app.auth.actor import Actor, Scope
from app.consents.models import ConsentStatus
from app.core.errors import ErrorCode, Refusal
from app.customers import actions as customers
from app.db.database import run_script
from app.meters import actions
from tests.accounts.state import events, refusals, unchanged
from tests.meters.asking import CREATE, NUMBERS, make_consent, make_customer, make_meter, meter_now, run
from tests.support import World

NO_CONSENT = {
    "missingConsent": True,
    "expiredConsent": False,
    "isDisabledByUser": False,
    "hasInvalidMeterNumber": False,
}


async def test_a_created_meter_is_there_and_is_an_event(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account, metadata={"segment": "home"})
    meter = await make_meter(
        world,
        account,
        customer_id,
        description=" Ground floor ",
        address="12 St James's Square",
        metadata={"site": "london"},
        dataSource="DCC",
    )
    assert meter == {
        "id": meter["id"],
        "number": "9999999999995",
        "type": "ELECTRICITY",
        "description": "Ground floor",
        "address": "12 St James's Square",
        "metadata": {"site": "london"},
        "dataSource": "DCC",
        "status": "INACTIVE",
        "validityState": NO_CONSENT,
        "customer": {"id": customer_id, "name": "Ada"},
        "hostedConsent": None,
        "createdAt": meter["createdAt"],
        "updatedAt": meter["createdAt"],
    }
    assert await meter_now(world, account, meter["id"]) == meter
    customer_created, event = (await events(world, account.id))[1:]
    assert (event.sequence, event.type, event.subject_id, event.customer_id) == (
        3,
        "meter.created",
        meter["id"],
        customer_id,
    )
    rest = {key: value for key, value in meter.items() if key not in ("customer", "hostedConsent")}
    assert event.data == {**rest, "customer": customer_created.data}
    assert event.data["customer"]["metadata"] == {"segment": "home"}


async def test_the_event_shows_meter_and_customer_as_they_are_now(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meter = await make_meter(world, account, customer_id)
    query = (
        "query ($meters: [ID!]) { events(filter: {meterIds: $meters}) "
        "{ nodes { name sequence ... on MeterCreatedEvent { meter { number } customer { name } } } } }"
    )
    asked = {"meters": [meter["id"]]}
    [shown] = (await world.data(query, asked, key=account.key))["events"]["nodes"]
    assert shown == {
        "name": "meter.created",
        "sequence": 3,
        "meter": {"number": "9999999999995"},
        "customer": {"name": "Ada"},
    }


@pytest.mark.parametrize(
    ("number", "type", "stored"),
    [
        ("00 111 222 99 9999 9999 995", None, ("9999999999995", "ELECTRICITY", False)),
        ("9999999999995", "ELECTRICITY", ("9999999999995", "ELECTRICITY", False)),
        ("123456", None, ("123456", "GAS", True)),
        ("123411", "GAS", ("123411", "GAS", True)),
    ],
)
async def test_a_number_is_stored_in_its_short_form(
    world: World, number: str, type: str | None, stored: tuple[str, str, bool]
) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meter = await make_meter(world, account, customer_id, number, type=type)
    assert (meter["number"], meter["type"]) == stored[:2]
    assert meter["validityState"]["hasInvalidMeterNumber"] is stored[2]


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"number": "9999999999990"}, ("INVALID_METER_NUMBER", ["number"])),
        ({"number": "12345"}, ("INVALID_METER_NUMBER", ["number"])),
        ({"number": ""}, ("INVALID_METER_NUMBER", ["number"])),
        ({"number": "9999999999996", "type": "GAS"}, ("INVALID_METER_NUMBER", ["number"])),
        ({"number": "123456", "type": "ELECTRICITY"}, ("INVALID_METER_NUMBER", ["number"])),
        ({"number": "9999999999995"}, ("TAKEN", ["number"])),
        ({"number": "99 999 999 9999999999995"}, ("TAKEN", ["number"])),
        ({"customerId": "cus_00000000000000000000000000"}, ("NOT_FOUND", ["customerId"])),
        ({"customerId": "nonsense"}, ("NOT_FOUND", ["customerId"])),
        ({"description": "D" * 2001}, ("TOO_LONG", ["description"])),
        ({"address": "A" * 2001}, ("TOO_LONG", ["address"])),
    ],
)
async def test_a_refused_meter_leaves_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    await make_meter(world, account, customer_id)
    given = {"customerId": customer_id, "number": NUMBERS[1], **values}
    async with unchanged(world):
        assert refusals(await run(world, account, CREATE, **given)) == [refused]


async def test_a_number_is_free_for_another_customer(world: World) -> None:
    account = await world.account()
    first, second = await make_customer(world, account), await make_customer(world, account, "b@example.com")
    await make_meter(world, account, first)
    assert (await make_meter(world, account, second))["customer"]["id"] == second


async def test_a_customer_of_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    theirs = await make_customer(world, other)
    async with unchanged(world):
        payload = await run(world, account, CREATE, customerId=theirs, number=NUMBERS[0])
        assert refusals(payload) == [("NOT_FOUND", ["customerId"])]


@pytest.mark.both_databases
async def test_two_meters_made_at_once_with_one_number(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    payloads = await asyncio.gather(
        *(run(world, account, CREATE, customerId=customer_id, number=NUMBERS[0]) for _ in range(4))
    )
    refused = [one for one in payloads if one["userErrors"]]
    assert [refusals(one) for one in refused] == [[("TAKEN", ["number"])]] * 3
    assert [one.sequence for one in await events(world, account.id)] == [1, 2, 3]


async def test_a_new_meter_is_covered_by_the_consents_that_mean_it(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    named = await make_consent(world, account, customer_id, ConsentStatus.PENDING, numbers=[NUMBERS[0]])
    first = await make_meter(world, account, customer_id, NUMBERS[0])
    assert (first["status"], first["hostedConsent"], first["validityState"]) == (
        "PENDING",
        {"id": named},
        NO_CONSENT,
    )
    second = await make_meter(world, account, customer_id, NUMBERS[1])
    assert (second["status"], second["hostedConsent"]) == ("INACTIVE", None)
    blanket = await make_consent(world, account, customer_id)
    third = await make_meter(world, account, customer_id, NUMBERS[2])
    assert (third["status"], third["hostedConsent"]) == ("ACTIVE", {"id": blanket})
    assert third["validityState"] == {**NO_CONSENT, "missingConsent": False}
    event = (await events(world, account.id))[-1]
    assert (event.data["status"], event.data["validityState"]) == ("ACTIVE", third["validityState"])


async def test_the_same_request_again_gives_the_same_meter(world: World) -> None:
    account = await world.account()
    values = {
        "customerId": await make_customer(world, account),
        "number": NUMBERS[0],
        "idempotencyKey": "once",
    }
    first = await run(world, account, CREATE, **values)
    async with unchanged(world):
        assert await run(world, account, CREATE, **values) == first


async def test_a_reading_key_and_a_stream_token_make_nothing(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        _key, secret = await accounts.create_api_key(session, admin, name="Reads", scopes=[Scope.READ])
        token, _until = await accounts.create_stream_token(
            session, admin, world.services.keyring, customer_id=customer_id
        )
    async with unchanged(world):
        for credential in (secret, token):
            asked = {"input": {"customerId": customer_id, "number": NUMBERS[0]}}
            response = await world.ask(CREATE, asked, key=credential)
            assert [one["extensions"]["code"] for one in response["errors"]] == ["FORBIDDEN"]


async def test_ensure_makes_only_what_is_missing(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    known = await make_meter(world, account, customer_id, NUMBERS[1])
    blanket = await make_consent(world, account, customer_id)
    actor = Actor(account.id, frozenset(Scope))
    async with world.database.transaction() as session:
        customer = await run_script(session, customers.find(actor, customer_id, lock=True))
        asked = [NUMBERS[0], NUMBERS[1], f"00 111 222 {NUMBERS[0]}", "123456"]
        found = await run_script(session, actions.find_or_create(session, customer, asked))
    assert [one.number for one in found] == [NUMBERS[0], NUMBERS[1], "123456"]
    assert found[1].id == known["id"]
    made = (await events(world, account.id))[3:]
    assert [(one.type, one.subject_id) for one in made] == [
        ("meter.created", found[0].id),
        ("meter.created", found[2].id),
    ]
    assert [one.data["validityState"]["hasInvalidMeterNumber"] for one in made] == [False, True]
    for meter in found:
        now = await meter_now(world, account, meter.id)
        assert now is not None
        assert (now["status"], now["hostedConsent"]) == ("ACTIVE", {"id": blanket})


async def test_ensure_refuses_a_bad_number_by_its_index(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    actor = Actor(account.id, frozenset(Scope))

    async def find_or_create() -> None:
        async with world.database.transaction() as session:
            customer = await run_script(session, customers.find(actor, customer_id, lock=True))
            await run_script(session, actions.find_or_create(session, customer, [NUMBERS[0], "12"]))

    async with unchanged(world):
        with pytest.raises(Refusal) as raised:
            await find_or_create()
    assert (raised.value.code, raised.value.field) == (
        ErrorCode.INVALID_METER_NUMBER,
        ["meterNumbers", "1"],
    )
