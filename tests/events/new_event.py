"""A feature of one file that adds an event, and all the places where the event shows.

`test_new_event.py` runs this in a process of its own: the event is in no other test's catalogue.
"""

from datetime import datetime
from email import message_from_bytes, policy
from typing import Any, ClassVar

import httpx
import pytest
import strawberry
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette
from typer.testing import CliRunner

from app.auth.actor import Actor
from app.cli.cli import app as cli
from app.cli.demo.board import Board
from app.cli.demo.story import all_events
from app.console import start
from app.core import clock
from app.events import log
from app.events.catalogue import EventData, Instant, event_names
from app.graphql.compiled.declare import to_one
from app.graphql.events import Event, event_type, event_types
from app.graphql.http.rates import Rates
from app.meters.graphql import Meter
from tests.delivery.scene import admin, open_scene
from tests.live.listening import listening
from tests.services.receiver import Receiver
from tests.support import World

NAME = "meter.inspected"


# The feature's events.py.
class MeterInspected(EventData):
    type: ClassVar = NAME
    words: ClassVar = "Meter inspected"
    summary: ClassVar = "a meter was inspected"
    description: ClassVar = "An engineer inspected a meter; data says when and what they found."
    example: ClassVar[dict[str, Any]] = {
        "meterId": "mtr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "customerId": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "inspectedAt": "2026-11-24T22:29:55.123Z",
        "leaks": 0,
        "engineer": "Ada Lovelace",
    }
    personal: ClassVar[dict[str, Any]] = {"engineer": None}

    meter_id: str
    customer_id: str
    inspected_at: Instant
    leaks: int
    engineer: str | None

    def subject_id(self) -> str:
        return self.meter_id

    def about_customer(self) -> str:
        return self.customer_id

    def about_meters(self) -> tuple[str]:
        return (self.meter_id,)


# The feature's actions.py.
def inspect(session: AsyncSession, actor: Actor, meter_id: str, customer_id: str, at: datetime) -> None:
    event = MeterInspected(
        meter_id=meter_id, customer_id=customer_id, inspected_at=at, leaks=2, engineer="Grace Hopper"
    )
    log.append(session, actor.account_id, event)


# The feature's graphql.py.
@event_type(MeterInspected)
@strawberry.type
class MeterInspectedEvent(Event):
    meter: Meter | None = to_one("subject_id")


async def test_it_is_in_the_catalogue_and_in_the_enum(world: World) -> None:
    assert event_names()[-1] == NAME
    data = await world.data("""{
        eventTypes { type name description example }
        __type(name: "EventType") { enumValues { name description } }
    }""")
    assert data["eventTypes"][-1] == {
        "type": "METER_INSPECTED",
        "name": NAME,
        "description": MeterInspected.description,
        "example": MeterInspected.example,
    }
    assert data["__type"]["enumValues"][-1] == {
        "name": "METER_INSPECTED",
        "description": "meter.inspected: a meter was inspected.",
    }


async def test_it_is_on_the_start_page(small_world: World) -> None:
    transport = httpx.ASGITransport(Starlette(routes=start.routes(small_world.services, Rates(1000))))
    async with httpx.AsyncClient(transport=transport, base_url="http://voltwire") as http:
        page = (await http.get("/")).text
    assert f'data-event="{NAME}" data-words="Meter inspected"' in page
    assert MeterInspected.description in page


def test_trigger_lists_it_and_says_that_it_cannot_make_it_happen() -> None:
    told = CliRunner().invoke(cli, ["trigger", "--help"], env={"COLUMNS": "400"})
    assert f", {NAME}." in told.output
    refused = CliRunner().invoke(cli, ["trigger", NAME, "--key", "vw_live_any"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"No change that makes {NAME} happen is known here: ")


def test_the_demo_shows_it_and_does_not_wait_for_it() -> None:
    board = Board(all_events())
    assert board.rows[-1].name == NAME
    assert not any(NAME in missing for missing in board.missing())


async def test_a_webhook_and_a_mail_tell_it(migrated_url: str, receiver: Receiver) -> None:
    async with open_scene(migrated_url) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url(), event_types=["meter.*"])
        await scene.subscription(account, "grace@example.com", event_types=[NAME])
        at = clock.parse_utc("2026-11-24T22:29:55.123Z")
        async with scene.worker():
            async with scene.database.transaction() as session:
                inspect(session, admin(account), "mtr_1", "cus_1", at)
            await scene.settled()
        (request,) = receiver.requests
        assert request.json()["type"] == NAME
        assert request.json()["data"] == {
            "meterId": "mtr_1",
            "customerId": "cus_1",
            "inspectedAt": "2026-11-24T22:29:55.123Z",
            "leaks": 2,
            "engineer": "Grace Hopper",
        }
        (file,) = scene.services.settings.mail_folder.glob("*.eml")
        mail = message_from_bytes(file.read_bytes(), policy=policy.default)
        assert mail["Subject"] == "Meter inspected"
        text = mail.get_body(("plain",)).get_content()  # type: ignore[attr-defined]
        assert "Leaks:          2" in text
        assert "Grace Hopper" not in text


async def test_a_subscription_and_the_log_yield_it(world: World) -> None:
    query = """subscription { events(filter: {types: [METER_INSPECTED]}) {
        type name data ... on MeterInspectedEvent { meter { number } } } }"""
    async with listening(world) as live:
        account = await world.account()
        actor = (await world.authenticator.authenticate(account.key)).actor
        _, sink = await live.subscribe(actor, query)
        meter = await live.meter(actor, await live.customer(actor))
        async with world.database.transaction() as session:
            inspect(session, actor, meter.id, meter.customer_id, clock.now())
        (told,) = await sink.count(1)
        assert (told["data"]["events"]["type"], told["data"]["events"]["name"]) == ("METER_INSPECTED", NAME)
        assert told["data"]["events"]["meter"] == {"number": meter.number}
        logged = await world.data(
            "{ events(last: 1, filter: {types: [METER_INSPECTED]}) { nodes { type name data "
            "... on MeterInspectedEvent { meter { number } } } } }",
            key=account.key,
        )
        assert logged["events"]["nodes"] == [told["data"]["events"]]


async def test_an_event_without_a_graphql_type_is_told_when_the_schema_is_built() -> None:
    class MeterForgotten(EventData):
        type: ClassVar = "meter.forgotten"

    with pytest.raises(ValueError, match=r"Declare a GraphQL type for meter\.forgotten"):
        event_types()
