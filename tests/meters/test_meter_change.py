import asyncio
from typing import Any

import pytest

from app.consents.models import ConsentStatus
from app.core import clock
from tests.accounts.state import events, mutation, refusals, state, unchanged
from tests.meters.asking import DAY, METER, NUMBERS, make_consent, make_customer, make_meter, meter_now, run
from tests.support import World

UPDATE = mutation("updateMeter", f"meter {{ {METER} }}")
DELETE = mutation("deleteMeter", "deletedId")
ENABLE = mutation("enableMeter", f"meter {{ {METER} }}")
DISABLE = mutation("disableMeter", f"meter {{ {METER} }}")
SET = mutation("setMeterConsent", f"meter {{ {METER} }}")


async def test_an_update_changes_what_was_given(world: World) -> None:
    account = await world.account()
    meter = await make_meter(
        world, account, await make_customer(world, account), description="Old", metadata={"a": "1"}
    )
    await asyncio.sleep(0.002)
    changed = (await run(world, account, UPDATE, meterId=meter["id"], address="Here", dataSource="DCC"))[
        "meter"
    ]
    assert changed == {**meter, "address": "Here", "dataSource": "DCC", "updatedAt": changed["updatedAt"]}
    assert changed["updatedAt"] > meter["updatedAt"]
    cleared = await run(
        world, account, UPDATE, meterId=meter["id"], description=None, address=None, metadata={"b": "2"}
    )
    assert (cleared["meter"]["description"], cleared["meter"]["address"]) == (None, None)
    assert cleared["meter"]["metadata"] == {"b": "2"}
    assert (await run(world, account, UPDATE, meterId=meter["id"], metadata=None))["meter"]["metadata"] == {}
    assert len(await events(world, account.id)) == 3


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"dataSource": None}, ("REQUIRED", ["dataSource"])),
        ({"description": "D" * 2001}, ("TOO_LONG", ["description"])),
        ({"meterId": "mtr_00000000000000000000000000"}, ("NOT_FOUND", ["meterId"])),
    ],
)
async def test_a_refused_update_changes_nothing(
    world: World, values: dict[str, Any], refused: tuple[str, list[str]]
) -> None:
    account = await world.account()
    meter = await make_meter(world, account, await make_customer(world, account))
    async with unchanged(world):
        payload = await run(world, account, UPDATE, **{"meterId": meter["id"], "address": "Here", **values})
        assert refusals(payload) == [refused]


async def test_a_meter_of_another_account_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    theirs = await make_meter(world, other, await make_customer(world, other))
    async with unchanged(world):
        for document in (UPDATE, DELETE, ENABLE, DISABLE, SET):
            payload = await run(world, account, document, meterId=theirs["id"])
            assert refusals(payload) == [("NOT_FOUND", ["meterId"])]
        assert await meter_now(world, account, theirs["id"]) is None
        query = (
            "query ($id: ID!, $numbers: [String!]) "
            "{ node(id: $id) { id } meters(filter: {numbers: $numbers}) { nodes { id } } }"
        )
        asked = {"id": theirs["id"], "numbers": [theirs["number"]]}
        assert await world.data(query, asked, key=account.key) == {
            "node": None,
            "meters": {"nodes": []},
        }


async def test_a_deleted_meter_is_gone_and_its_event_stays(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id)
    assert await run(world, account, DELETE, meterId=meter["id"]) == {
        "deletedId": meter["id"],
        "userErrors": [],
    }
    rows = await state(world)
    assert (rows["meters"], rows["consent_meters"], len(rows["hosted_consents"])) == ([], [], 1)
    event = (await events(world, account.id))[-1]
    assert (event.type, event.data["number"]) == ("meter.created", "9999999999995")
    query = (
        "{ events(filter: {types: [METER_CREATED]}) "
        "{ nodes { ... on MeterCreatedEvent { meter { id } customer { id } } } } }"
    )
    [shown] = (await world.data(query, key=account.key))["events"]["nodes"]
    assert shown == {"meter": None, "customer": {"id": customer_id}}
    again = await make_meter(world, account, customer_id)
    assert again["id"] != meter["id"]


async def test_a_disabled_meter_is_inactive_until_it_is_enabled(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id)
    async with unchanged(world):
        assert (await run(world, account, ENABLE, meterId=meter["id"]))["meter"] == meter
    disabled = (await run(world, account, DISABLE, meterId=meter["id"]))["meter"]
    assert disabled["status"] == "INACTIVE"
    assert disabled["validityState"] == {**meter["validityState"], "isDisabledByUser": True}
    async with unchanged(world):
        assert (await run(world, account, DISABLE, meterId=meter["id"]))["meter"] == disabled
    enabled = (await run(world, account, ENABLE, meterId=meter["id"]))["meter"]
    assert enabled == {**meter, "updatedAt": enabled["updatedAt"]}
    assert len(await events(world, account.id)) == 3


async def test_a_meter_takes_one_consent_in_place_of_its_others(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meter = await make_meter(world, account, customer_id)
    valid = await make_consent(world, account, customer_id)
    pending = await make_consent(world, account, customer_id, ConsentStatus.PENDING, numbers=[NUMBERS[0]])
    now = await meter_now(world, account, meter["id"])
    assert now is not None
    assert (now["status"], now["hostedConsent"]) == ("ACTIVE", {"id": valid})
    changed = (await run(world, account, SET, meterId=meter["id"], hostedConsentId=pending))["meter"]
    assert (changed["status"], changed["hostedConsent"]) == ("PENDING", {"id": pending})
    assert len((await state(world))["consent_meters"]) == 1
    again = (await run(world, account, SET, meterId=meter["id"], hostedConsentId=pending))["meter"]
    assert again["hostedConsent"] == {"id": pending}
    for removed in ({"hostedConsentId": None}, {}):
        await run(world, account, SET, meterId=meter["id"], hostedConsentId=valid)
        cleared = (await run(world, account, SET, meterId=meter["id"], **removed))["meter"]
        assert (cleared["status"], cleared["hostedConsent"]) == ("INACTIVE", None)
        assert cleared["validityState"]["missingConsent"] is True
        assert (await state(world))["consent_meters"] == []
    assert len(await events(world, account.id)) == 3


async def test_a_consent_that_does_not_cover_the_meter_is_refused(world: World) -> None:
    account, other = await world.account(), await world.account()
    customer_id = await make_customer(world, account)
    valid = await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id)
    second = await make_customer(world, account, "b@example.com")
    theirs = await make_consent(world, other, await make_customer(world, other))
    refused = {
        await make_consent(world, account, second): "CONFLICT",
        await make_consent(world, account, customer_id, numbers=[NUMBERS[1]]): "CONFLICT",
        theirs: "NOT_FOUND",
        "hc_00000000000000000000000000": "NOT_FOUND",
    }
    async with unchanged(world):
        for consent_id, code in refused.items():
            payload = await run(world, account, SET, meterId=meter["id"], hostedConsentId=consent_id)
            assert refusals(payload) == [(code, ["hostedConsentId"])]
    now = await meter_now(world, account, meter["id"])
    assert now is not None
    assert now["hostedConsent"] == {"id": valid}


@pytest.mark.parametrize(
    ("decision", "days", "status", "missing", "expired"),
    [
        (ConsentStatus.APPROVED, 1, "ACTIVE", False, False),
        (ConsentStatus.APPROVED, -1, "INACTIVE", False, True),
        (ConsentStatus.PENDING, 1, "PENDING", True, False),
        (ConsentStatus.PENDING, -1, "INACTIVE", True, False),
        (ConsentStatus.DECLINED, 1, "INACTIVE", True, False),
        (ConsentStatus.REVOKED, 1, "INACTIVE", True, False),
        (ConsentStatus.REVOKED, -1, "INACTIVE", True, False),
    ],
)
async def test_the_consent_decides_status_and_validity(
    world: World, decision: ConsentStatus, days: int, status: str, missing: bool, expired: bool
) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    consent = await make_consent(world, account, customer_id, decision, until=clock.now() + days * DAY)
    meter = await make_meter(world, account, customer_id)
    assert (meter["status"], meter["hostedConsent"]) == (status, {"id": consent})
    assert meter["validityState"] == {
        "missingConsent": missing,
        "expiredConsent": expired,
        "isDisabledByUser": False,
        "hasInvalidMeterNumber": False,
    }
