"""Payloads by GraphQL: allowed selections, their results, and the same body through all attempts."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import update
from sqlmodel import col

from app.customers import actions as customers
from app.db.database import run_script
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.events import log
from app.events.models import EventRecord
from app.meters import actions as meters
from app.readings.events import MeterDataReceived
from tests.accounts.state import mutation
from tests.delivery.asking import URL
from tests.delivery.scene import Scene, admin, open_scene, send_test
from tests.meters.asking import run
from tests.services.receiver import Receiver
from tests.support import World

CREATE = mutation("createWebhookEndpoint", "webhookEndpoint { id selection }")
UPDATE = mutation("updateWebhookEndpoint", "webhookEndpoint { id selection }")
SELECTION = """
{
  id
  name

  ... on MeterCreatedEvent { meter { number customer { name } } }
  ... on CustomerCreatedEvent { customer { name meters(first: 2) { nodes { number } } } }
}
"""


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url, webhook_retry_schedule=[0.05, 0.05]) as opened:
        yield opened


async def test_a_selection_is_kept_and_taken_back(world: World) -> None:
    account = await world.account()
    made = await run(world, account, CREATE, url=URL, selection=SELECTION)
    assert made["userErrors"] == []
    endpoint = made["webhookEndpoint"]
    assert endpoint["selection"] == SELECTION
    kept = await run(world, account, UPDATE, webhookEndpointId=endpoint["id"], description="x")
    assert kept["webhookEndpoint"] == endpoint
    cleared = await run(world, account, UPDATE, webhookEndpointId=endpoint["id"], selection=None)
    assert cleared["webhookEndpoint"]["selection"] is None


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("{ id", "Line 1, column 5: Syntax Error: Expected Name, found <EOF>."),
        ("{ id nope }", "Line 1, column 6: Cannot query field 'nope' on type 'Event'."),
        (
            "{\n  ... on MeterCreatedEvent {\n    meter { nope }\n  }\n}",
            "Line 3, column 13: Cannot query field 'nope' on type 'Meter'.",
        ),
        ("{ id(first: 1) }", "Line 1, column 6: Unknown argument 'first' on field 'Event.id'."),
        ("{ id @include(if: $n) }", "Line 1, column 19: Variable '$n' is not defined."),
        (
            "{ ... on HostedConsentApprovedEvent { hostedConsent { id link } } }",
            "Line 1, column 58: link is never sent to another server; leave it out.",
        ),
        (
            "{ id }\nquery { viewer { account { id } } }",
            "Give only what stands after events in a subscription, such as { id name data }.",
        ),
        ("query { id }", "Give only what stands after events in a subscription, such as { id name data }."),
        (
            "mutation { id }",
            "Give only what stands after events in a subscription, such as { id name data }.",
        ),
        ("{ id } }", "Line 1, column 8: Syntax Error: Unexpected '}'."),
        ("id name", "Line 1, column 1: Syntax Error: Unexpected Name 'id'."),
    ],
)
async def test_what_is_wrong_with_a_selection_is_told_with_its_place(
    world: World, selection: str, message: str
) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE, url=URL, selection=selection)
    assert payload["webhookEndpoint"] is None
    first = payload["userErrors"][0]
    assert (first["code"], first["field"]) == ("INVALID", ["selection"])
    assert first["message"] == message


METERS = "meters(first: 100) { nodes { id customer { %s } } }"


@pytest.mark.parametrize(
    "selection",
    [
        "{ " + "id: id " * 31 + "}",
        "{ ... on CustomerCreatedEvent { customer { %s } } }" % (METERS % (METERS % "id")),
    ],
)
async def test_a_selection_has_the_limits_of_any_document(world: World, selection: str) -> None:
    account = await world.account()
    payload = await run(world, account, CREATE, url=URL, selection=selection)
    assert [(one["code"], one["field"]) for one in payload["userErrors"]] == [("INVALID", ["selection"])]
    payload = await run(world, account, CREATE, url=URL, selection="{ id " + " " * 10_000 + "}")
    assert [(one["code"], one["field"]) for one in payload["userErrors"]] == [("TOO_LONG", ["selection"])]


async def a_meter(scene: Scene, account: str) -> dict[str, Any]:
    """A customer with a meter, each an event."""
    async with scene.database.transaction() as session:
        ada = await run_script(
            session, customers.create(session, admin(account), name="Ada", email="ada@example.com")
        )
        await session.flush()
        meter = await run_script(
            session, meters.create(session, admin(account), customer_id=ada.id, number="2499999999991")
        )
    return {"customer": ada.id, "meter": meter.id}


async def test_data_is_what_was_selected(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    await scene.endpoint(account, receiver.url("/selected"), selection=SELECTION)
    await scene.endpoint(account, receiver.url("/plain"))
    async with scene.worker():
        await a_meter(scene, account)
        await scene.settled()
    bodies = {one.json()["type"]: one.json() for one in receiver.to("/selected")}
    assert set(bodies) == {"customer.created", "meter.created"}
    created = bodies["meter.created"]
    assert list(created) == ["type", "timestamp", "id", "sequence", "data"]
    assert created["data"] == {
        "id": created["id"],
        "name": "meter.created",
        "meter": {"number": "2499999999991", "customer": {"name": "Ada"}},
    }
    assert bodies["customer.created"]["data"]["customer"] == {
        "name": "Ada",
        "meters": {"nodes": [{"number": "2499999999991"}]},
    }
    assert len(receiver.to("/plain")) == 2
    # A body made of the event alone is always the same, and needs no copy.
    kept = [one.body for one in await scene.deliveries()]
    assert {request.body for request in receiver.to("/selected")} | {b""} == set(kept)


async def test_what_was_tried_without_a_selection_stays_as_it_was(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    receiver.plan(500, 200, 200)
    endpoint = await scene.endpoint(account, receiver.url())
    async with scene.worker():
        await scene.happen(account)
        await receiver.wait_for(1)
        await scene.change(WebhookEndpoint, endpoint.id, selection="{ id }")
        await scene.settled()
        await scene.happen(account)
        await scene.settled()
    first, again, later = receiver.requests
    assert first.body == again.body
    assert list(later.json()["data"]) == ["id"]


async def test_retries_carry_what_the_first_attempt_did(scene: Scene, receiver: Receiver) -> None:
    account = await scene.account()
    receiver.plan(500, 500)
    selection = "{ id ... on CustomerCreatedEvent { customer { name } } }"
    await scene.endpoint(account, receiver.url(), selection=selection, event_types=["customer.*"])
    async with scene.worker():
        made = await a_meter(scene, account)
        await receiver.wait_for(1)
        async with scene.database.transaction() as session:
            await run_script(session, customers.update(admin(account), made["customer"], {"name": "Grace"}))
        await scene.settled()
    assert len(receiver.requests) == 3
    assert {one.json()["data"]["customer"]["name"] for one in receiver.requests} == {"Ada"}
    assert len({one.body for one in receiver.requests}) == 1


async def test_what_is_gone_is_null_and_what_the_schema_lost_is_told(
    scene: Scene, receiver: Receiver
) -> None:
    account = await scene.account()
    selection = "{ ... on CustomerCreatedEvent { customer { name } } }"
    await scene.endpoint(account, receiver.url("/gone"), selection=selection)
    await scene.endpoint(account, receiver.url("/lost"), selection="{ noSuchField }")
    async with scene.worker():
        await scene.happen(account)
        await scene.settled()
    (gone,), (lost,) = receiver.to("/gone"), receiver.to("/lost")
    assert gone.json()["data"] == {"customer": None}
    assert "errors" not in gone.json()
    assert lost.json()["data"] is None
    assert lost.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_a_test_event_is_sent_by_the_selection(scene: Scene, receiver: Receiver) -> None:
    selection = "{ id name sequence data ... on MeterCreatedEvent { meter { number } } }"
    account = await scene.account()
    endpoint = await scene.endpoint(account, receiver.url(), selection=selection)
    kinds = ["meter.created", "customer.created"]
    receiver.plan(500)
    async with scene.worker():
        async with scene.database.transaction() as session:
            sent = [await send_test(session, admin(account), endpoint.id, kind) for kind in kinds]
        await scene.settled()
    bodies = {request.headers["webhook-id"]: request.body for request in receiver.requests}
    # The delivery that failed once came again with the same body.
    assert {(request.headers["webhook-id"], request.body) for request in receiver.requests} == set(
        bodies.items()
    )
    for delivery, kind in zip(sent, kinds, strict=True):
        shown = {"id": delivery.event_id, "name": kind, "sequence": 0, "data": delivery.test_event}
        if kind == "meter.created":
            # There is no such meter as the example's.
            shown["meter"] = None
        body = json.loads(bodies[delivery.event_id])
        assert body == {
            "type": kind,
            "timestamp": body["timestamp"],
            "id": delivery.event_id,
            "sequence": 0,
            "data": shown,
            "test": True,
        }


async def test_a_fault_of_ours_is_never_what_is_sent(migrated_url: str, receiver: Receiver) -> None:
    selection = "{ ... on MeterDataReceivedEvent { from intervalCount } }"
    async with open_scene(migrated_url, webhook_retry_schedule=[0.3] * 20) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url(), selection=selection)
        start = datetime(2024, 3, 31, tzinfo=UTC)
        event = MeterDataReceived(
            meter_id="mtr_1",
            customer_id="cus_1",
            start=start,
            to=start + timedelta(hours=1),
            interval_count=2,
        )
        async with scene.database.transaction() as session:
            log.append(session, account, event)
        await overwrite(scene, event.data() | {"from": "no time"})
        async with scene.worker() as worker:

            async def failed() -> bool:
                return worker.senders["webhook"].recorded > 0

            await scene.until(failed)
            await overwrite(scene, event.data())
            await scene.settled()
    (request,) = receiver.requests
    assert request.json()["data"] == {"from": "2024-03-31T00:00:00.000Z", "intervalCount": 2}
    assert "errors" not in request.json()


async def overwrite(scene: Scene, data: dict[str, Any]) -> None:
    """Change the log's record of its only readings."""
    async with scene.database.transaction() as session:
        readings = col(EventRecord.type) == "meter_data.received"
        await session.execute(update(EventRecord).where(readings).values(data=data))


async def test_what_takes_long_to_write_holds_up_no_other_account(
    migrated_postgres_url: str, receiver: Receiver
) -> None:
    async with open_scene(migrated_postgres_url) as scene:
        one, other = await scene.account(), await scene.account()
        slow = await scene.endpoint(one, receiver.url("/slow"), selection=SELECTION)
        quick = await scene.endpoint(other, receiver.url("/quick"))

        async def is_claimed() -> bool:
            (row,) = await scene.deliveries(destination_id=slow.id) or [None]
            return row is not None and row.leased_until is not None

        async def arrived() -> bool:
            return len(await scene.deliveries(destination_id=quick.id, status="SUCCEEDED")) == 1

        holder = await asyncpg.connect(migrated_postgres_url)
        async with holder.transaction():
            # The selection waits for this, as it would for a slow database.
            await holder.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
            async with scene.worker():
                await scene.happen(one)
                await scene.until(is_claimed)
                await scene.happen(other)
                await scene.until(arrived)
                assert receiver.to("/slow") == []
            # A worker that stops gives back deliveries whose body is not made.
            (row,) = await scene.deliveries(destination_id=slow.id)
            assert (row.status, row.leased_until, row.attempts_made) == ("PENDING", None, 0)
        await holder.close()
        async with scene.worker():
            await scene.settled()
        assert len(receiver.to("/slow")) == 1
