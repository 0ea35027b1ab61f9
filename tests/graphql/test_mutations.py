"""Mutations run once for an idempotency key, in one transaction, with refusals as `userErrors`."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from sqlmodel import col

from app.db.idempotency import IdempotentMutation
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.graphql.idempotency import IDEMPOTENCY_WINDOW, Once
from tests.accounts.state import events, mutation, refusals, state, unchanged
from tests.consents.helpers import in_a_year
from tests.meters.asking import make_consent, make_customer, make_meter, run
from tests.readings.metered import metered, reading
from tests.support import World

pytestmark = pytest.mark.both_databases

CUSTOMER = "customer { id name email address metadata createdAt updatedAt }"
CREATE = mutation("createCustomer", CUSTOMER)
UPDATE = mutation("updateCustomer", CUSTOMER)
KEY = mutation("createApiKey", "apiKey { id name prefix scopes createdAt expiresAt revokedAt } secret")
TOKEN = mutation("createStreamToken", "token expiresAt")
ENDPOINT = mutation("createWebhookEndpoint", "webhookEndpoint { id url eventTypes status } secret")
CONSENT = mutation("createHostedConsent", "hostedConsent { id flowType expiry status link meterNumbers }")
ADA = {"name": "Ada", "email": "ada@example.com", "metadata": {"a": "1", "b": "2"}}


async def kept(world: World) -> int:
    async with world.database.reading() as session:
        return (await session.execute(select(func.count()).select_from(IdempotentMutation))).scalar_one()


async def test_the_same_input_gives_the_same_payload_after_the_row_changed(world: World) -> None:
    account = await world.account()
    first = await run(world, account, CREATE, **ADA, idempotencyKey="k")
    await run(world, account, UPDATE, customerId=first["customer"]["id"], name="Countess")
    async with unchanged(world):
        # The order of keys in an object does not matter.
        again = {**ADA, "metadata": {"b": "2", "a": "1"}, "idempotencyKey": "k"}
        assert await run(world, account, CREATE, **again) == first


async def test_a_payload_about_a_deleted_customer_is_given_again_without_personal_data(world: World) -> None:
    account = await world.account()
    first = await run(world, account, CREATE, **ADA, idempotencyKey="k")
    deleted = mutation("deleteCustomer", "deletedId")
    await run(world, account, deleted, customerId=first["customer"]["id"])
    async with unchanged(world):
        again = await run(world, account, CREATE, **ADA, idempotencyKey="k")
        other = await run(world, account, CREATE, **{**ADA, "name": "Eda"}, idempotencyKey="k")
    redacted = {"name": "[deleted]", "email": "[deleted]", "address": None, "metadata": {}}
    assert again == {"customer": {**first["customer"], **redacted}, "userErrors": []}
    assert refusals(other) == [("IDEMPOTENCY_KEY_REUSED", ["idempotencyKey"])]


@pytest.mark.parametrize(
    ("document", "values"),
    [
        (KEY, {"name": "Robot", "scopes": ["READ"], "expiresAt": "2099-01-01T00:00:00.000Z"}),
        (TOKEN, {"expiresInSeconds": 60}),
        (ENDPOINT, {"url": "https://example.com/hook", "eventTypes": ["meter.*"]}),
    ],
)
async def test_a_secret_is_given_again_and_kept_encrypted(
    world: World, document: str, values: dict[str, Any]
) -> None:
    account = await world.account()
    first = await run(world, account, document, **values, idempotencyKey="k")
    secret = first.get("secret") or first["token"]
    assert secret
    async with unchanged(world):
        assert await run(world, account, document, **values, idempotencyKey="k") == first
    assert secret not in repr((await state(world))["idempotent_mutations"])


async def test_dates_enums_and_lists_come_back_as_they_were(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    values = {
        "customerId": customer_id,
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://example.com/done",
        "meterNumbers": ["2499999999991"],
        "idempotencyKey": "k",
    }
    first = await run(world, account, CONSENT, **values)
    assert first["hostedConsent"]["link"]
    async with unchanged(world):
        assert await run(world, account, CONSENT, **values) == first


async def test_another_input_under_a_used_key_is_refused(world: World) -> None:
    account = await world.account()
    await run(world, account, CREATE, **ADA, idempotencyKey="k")
    async with unchanged(world):
        for changes in (
            {"name": "Eda"},
            {"metadata": {"a": "1"}},
            {"address": "Here"},
        ):
            payload = await run(world, account, CREATE, **{**ADA, **changes}, idempotencyKey="k")
            assert refusals(payload) == [("IDEMPOTENCY_KEY_REUSED", ["idempotencyKey"])]


async def test_omitted_and_null_differ_where_they_mean_different_things(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account, address="Here")
    values = {"customerId": customer_id, "name": "Ada", "idempotencyKey": "k"}
    await run(world, account, UPDATE, **values)
    async with unchanged(world):
        payload = await run(world, account, UPDATE, **values, address=None)
        assert refusals(payload) == [("IDEMPOTENCY_KEY_REUSED", ["idempotencyKey"])]


async def test_a_key_counts_per_account_and_mutation(world: World) -> None:
    account, other = await world.account(), await world.account()
    ids = {
        (await run(world, one, CREATE, **ADA, idempotencyKey="k"))["customer"]["id"]
        for one in (account, other)
    }
    assert len(ids) == 2
    payload = await run(world, account, UPDATE, customerId=min(ids), name="Eda", idempotencyKey="k")
    assert payload["customer"]["name"] == "Eda"
    assert await kept(world) == 3


async def test_concurrent_twins_have_one_effect(world: World) -> None:
    account = await world.account()
    payloads = await asyncio.gather(
        *(run(world, account, KEY, name="Twin", idempotencyKey="k") for _ in range(6))
    )
    assert payloads == [payloads[0]] * 6
    assert payloads[0]["userErrors"] == []
    names = [one["name"] for one in (await state(world))["api_keys"]]
    assert names.count("Twin") == 1
    meter = await metered(world)
    same = [reading("00:00", "1")]
    recorded = await asyncio.gather(*(meter.record(*same, idempotencyKey="k") for _ in range(6)))
    assert [one["changed"] for one in recorded] == [1] * 6
    assert len(await meter.received()) == 1


async def test_only_successes_are_kept(world: World) -> None:
    account = await world.account()
    async with unchanged(world):
        payload = await run(world, account, CREATE, **{**ADA, "email": "no"}, idempotencyKey="k")
        assert refusals(payload) == [("INVALID", ["email"])]
    assert (await run(world, account, CREATE, **ADA, idempotencyKey="k"))["userErrors"] == []
    assert await kept(world) == 1


async def test_a_twin_of_a_refused_one_acts_itself(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meter = await make_meter(world, account, customer_id)
    record = mutation("recordReadings", "accepted changed")
    values = {"meterId": meter["id"], "readings": [reading("00:00", "1")], "idempotencyKey": "k"}
    refused = await asyncio.gather(*(run(world, account, record, **values) for _ in range(3)))
    assert [refusals(one) for one in refused] == [[("CONSENT_REQUIRED", ["meterId"])]] * 3
    await make_consent(world, account, customer_id)
    assert (await run(world, account, record, **values))["changed"] == 1


@pytest.mark.parametrize(("key", "code"), [("", "REQUIRED"), ("k" * 256, "TOO_LONG")])
async def test_a_key_has_1_to_255_characters(world: World, key: str, code: str) -> None:
    account = await world.account()
    async with unchanged(world):
        payload = await run(world, account, CREATE, **ADA, idempotencyKey=key)
        assert refusals(payload) == [(code, ["idempotencyKey"])]
    assert (await run(world, account, CREATE, **ADA, idempotencyKey="é" * 255))["userErrors"] == []


async def test_null_is_no_key(world: World) -> None:
    account = await world.account()
    await run(world, account, CREATE, **ADA, idempotencyKey=None)
    payload = await run(world, account, CREATE, **ADA, idempotencyKey=None)
    assert refusals(payload) == [("TAKEN", ["email"])]
    assert await kept(world) == 0


async def age(world: World, by: timedelta) -> None:
    async with world.database.transaction() as session:
        [created_at] = (await session.execute(select(col(IdempotentMutation.created_at)))).scalars()
        await session.execute(update(IdempotentMutation).values(created_at=created_at - by))


async def test_a_key_is_free_again_after_a_day(world: World) -> None:
    account = await world.account()
    first = await run(world, account, KEY, name="Robot", idempotencyKey="k")
    await age(world, IDEMPOTENCY_WINDOW - timedelta(minutes=5))
    assert await run(world, account, KEY, name="Robot", idempotencyKey="k") == first
    await age(world, timedelta(minutes=6))
    second = await run(world, account, KEY, name="Another robot", idempotencyKey="k")
    assert second["apiKey"]["name"] == "Another robot"
    assert await run(world, account, KEY, name="Another robot", idempotencyKey="k") == second
    assert await kept(world) == 1


async def test_concurrent_twins_after_a_day_have_one_effect(world: World) -> None:
    account = await world.account()
    await run(world, account, KEY, name="Robot", idempotencyKey="k")
    await age(world, IDEMPOTENCY_WINDOW + timedelta(minutes=1))
    payloads = await asyncio.gather(
        *(run(world, account, KEY, name="Robot", idempotencyKey="k") for _ in range(4))
    )
    assert payloads == [payloads[0]] * 4
    assert [one["name"] for one in (await state(world))["api_keys"]].count("Robot") == 2


async def test_a_race_for_a_unique_value_ends_in_taken(world: World) -> None:
    account = await world.account()
    payloads = await asyncio.gather(*(run(world, account, CREATE, **ADA) for _ in range(5)))
    won = [one for one in payloads if one["customer"]]
    lost = [refusals(one) for one in payloads if not one["customer"]]
    assert (len(won), lost) == (1, [[("TAKEN", ["email"])]] * 4)
    log = await events(world, account.id)
    assert [one.type for one in log] == ["user.created", "customer.created"]


async def test_several_mutations_of_one_document_run_one_after_another(world: World) -> None:
    account = await world.account()
    document = (
        "fragment F on CreateCustomerPayload { customer { id } userErrors { code } } "
        'mutation { a: createCustomer(input: {name: "A", email: "a@example.com"}) { ...F } '
        'b: createCustomer(input: {name: "B", email: "A@example.com"}) { ...F } '
        'c: createCustomer(input: {name: "C", email: "c@example.com"}) { ...F } }'
    )
    data = await world.data(document, key=account.key)
    assert [one["userErrors"] for one in data.values()] == [[], [{"code": "TAKEN"}], []]
    assert data["a"]["customer"]["id"] < data["c"]["customer"]["id"]


async def test_the_end_customers_decision_is_given_again(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    asked = {
        "customerId": customer_id,
        "flowType": "GB_COMMERCIAL_BLANKET",
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://example.com/done",
    }
    link = (await run(world, account, CONSENT, **asked))["hostedConsent"]["link"]
    decline = mutation("declineHostedConsent", "hostedConsent { id status }")
    values = {"input": {"token": link.rpartition("/")[2], "reason": "No.", "idempotencyKey": "k"}}
    first = (await world.data(decline, values))["declineHostedConsent"]
    assert first["hostedConsent"]["status"] == "DECLINED"
    async with unchanged(world):
        assert (await world.data(decline, values))["declineHostedConsent"] == first
        again = {"input": {**values["input"], "idempotencyKey": "other"}}
        assert refusals((await world.data(decline, again))["declineHostedConsent"]) == [
            ("TOKEN_USED", ["token"])
        ]


async def test_every_mutation_takes_an_idempotency_key(world: World) -> None:
    mutations = world.engine.schema.mutation_type
    assert mutations is not None
    for name, field in mutations.fields.items():
        [(argument, given)] = field.args.items()
        inputs: Any = given.type
        assert (name, argument, str(inputs)) == (name, "input", f"{name[0].upper()}{name[1:]}Input!")
        assert str(inputs.of_type.fields["idempotencyKey"].type) == "String"
        assert str(field.type).rstrip("!") == f"{name[0].upper()}{name[1:]}Payload"
        payload: Any = getattr(field.type, "of_type", field.type)
        assert str(payload.fields["userErrors"].type) == "[UserError!]!"


async def test_a_key_whose_row_is_deleted_once_found_taken_is_claimed_again(world: World) -> None:
    account = await world.account()
    await run(world, account, CREATE, **ADA, idempotencyKey="k")
    once = Once(world.services.keyring, account.id, "createCustomer", "k", "other input")

    def result() -> Script[dict[str, Any]]:
        yield from ()
        return {"deletedId": "new"}

    def whole(_transaction: InTransaction) -> Script[dict[str, Any]]:
        script, rows, statements = once.run(result), None, 0
        try:
            while True:
                rows = yield next(script) if rows is None else script.send(rows)
                statements += 1
                # The second one has found that the key is taken.
                if statements == 2:
                    yield delete(IdempotentMutation), {}
        except StopIteration as end:
            value: dict[str, Any] = end.value
            return value

    assert await world.database.transact(whole) == {"deletedId": "new"}
    assert await world.database.transact(lambda _: once.run(result)) == {"deletedId": "new"}
    assert await kept(world) == 1
