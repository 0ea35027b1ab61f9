"""The catalogue: what it promises of each event, what real events record, and what is left of a deleted customer."""

import re
from typing import Any

import jsonschema
import orjson
import pytest
from sqlmodel import col, select

from app.consents.expiries import Expiries
from app.core import clock
from app.customers import actions as customers
from app.db.database import run_script
from app.events.catalogue import EventData, catalogue, event_class, event_names
from app.events.models import EventMeter, EventRecord
from app.meters import actions as meters
from tests.accounts.state import mutation
from tests.consents.helpers import ELECTRICITY, GAS, OTHER, Asked, ask_again, ask_for_consent
from tests.delivery.disabling import disabled_endpoint
from tests.events.upgraded import upgraded_at
from tests.feeds.feeding import ail, ended_backfill, made_feed
from tests.imports.importing import ended_import
from tests.readings.metered import RECORD, reading
from tests.readings.silences.silent import silent_meters
from tests.support import World

ALL = catalogue()
ROTATE = mutation("rotateApiKey", "secret")
DELETE_CUSTOMER = mutation("deleteCustomer", "deletedId")
ID = re.compile(r"(acc|usr|key|cus|mtr|hc|evd|evt|bkf|fed|imp|whe)_[0-9a-z]{26}")

# Whatever of a person is written anywhere in this story.
PERSONAL = [
    "Ada Lovelace",
    "ada@",
    "Countess",
    "Ockham",
    "lovelace.png",
    "hidden-label",
    ELECTRICITY,
    OTHER,
    GAS,
    "cellar",
    "bright.example",
    "moved to Ealing",
    "for the new tariff",
]


def validate(kind: type[EventData], data: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(
        kind.json_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(data)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every value that is no object, by its dotted path."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        where: leaf
        for key, inner in value.items()
        for where, leaf in leaves(inner, f"{path}.{key}" if path else key).items()
    }


def ids_in(data: Any) -> list[str]:
    return sorted(found[0] for found in ID.finditer(orjson.dumps(data).decode()))


def test_the_events_are_there_in_their_order() -> None:
    assert event_names() == [
        "meter_data.received",
        "meter.created",
        "user.created",
        "customer.created",
        "api_keys.rotated",
        "hosted_consent.approved",
        "hosted_consent.revoked",
        "backfill.completed",
        "import.completed",
        "feed.attention_needed",
        "meter_data.overdue",
        "hosted_consent.declined",
        "hosted_consent.expired",
        "webhook_endpoint.disabled",
    ]
    for kind in ALL:
        assert event_class(kind.type) is kind


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type)
def test_a_types_schema_describes_its_example(kind: type[EventData]) -> None:
    schema = kind.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == kind.type
    assert schema["description"] == kind.description
    assert kind.description.endswith(".")
    assert kind.words[0].isupper()
    assert kind.summary[0].islower()
    assert not kind.summary.endswith(".")
    assert set(schema["properties"]) == set(schema["required"]) == set(kind.example)
    validate(kind, kind.example)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type)
def test_a_types_schema_refuses_what_it_does_not_promise(kind: type[EventData]) -> None:
    for missing in kind.example:
        with pytest.raises(jsonschema.ValidationError):
            validate(kind, {name: value for name, value in kind.example.items() if name != missing})
    wrong = next(name for name, value in kind.example.items() if isinstance(value, str))
    with pytest.raises(jsonschema.ValidationError):
        validate(kind, {**kind.example, wrong: 7})


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type)
def test_redaction_changes_what_is_personal_and_nothing_else(kind: type[EventData]) -> None:
    before = orjson.dumps(kind.example)
    redacted = kind.redacted(kind.example)
    assert orjson.dumps(kind.example) == before
    validate(kind, redacted)
    assert ids_in(redacted) == ids_in(kind.example)
    assert kind.redacted(redacted) == redacted
    kept, was = leaves(redacted), leaves(kind.example)
    changed = {path for path in kept.keys() | was.keys() if kept.get(path, ...) != was.get(path, ...)}
    # An object such as the metadata is personal with all that is in it.
    assert all(any(f"{path}.".startswith(f"{one}.") for one in kind.personal) for path in changed)
    for path, replacement in kind.personal.items():
        assert path in kept or any(one.startswith(f"{path}.") for one in was)
        assert kept.get(path, replacement) == replacement


async def story(world: World) -> Asked:
    """Every event of one customer's account, with personal data in everything that takes some."""
    asked = await ask_for_consent(
        world,
        meter_numbers=[ELECTRICITY, OTHER],
        description="Half-hourly data for the new tariff",
    )
    async with world.database.transaction() as session:
        await run_script(
            session,
            customers.update(
                asked.actor,
                asked.customer.id,
                {
                    "address": "Ockham Park",
                    "logo_url": "https://bright.example/lovelace.png",
                    "labels": {"hidden-label": "Countess"},
                },
            ),
        )
    async with world.database.transaction() as session:
        await run_script(
            session,
            meters.create(
                session,
                asked.actor,
                customer_id=asked.customer.id,
                number=GAS,
                description="in the cellar",
                address="Ockham Park, the cellar",
                labels={"hidden-label": "cellar"},
            ),
        )
    await asked.approve(job_title="Countess")
    meter_id = (await recorded(world, asked.account_id, "hosted_consent.approved"))[0].data["meterIds"][0]
    await succeed(world, asked, RECORD, {"meterId": meter_id, "readings": [reading("00:00", "1.5")]})
    await silent_meters(world)
    await asked.revoke("She moved to Ealing.")
    await ended_import(world, asked.account_id)
    feed_id = await made_feed(world, asked.account_id)
    await ended_backfill(world, meter_id, feed_id)
    await ail(world, feed_id)
    again = await ask_again(world, asked.account_id, asked.key, asked.actor, asked.customer)
    await again.decline("She moved to Ealing.")
    last = await ask_again(world, asked.account_id, asked.key, asked.actor, asked.customer)
    await last.approve()
    await last.expire()
    await upgraded_at(world)
    assert await Expiries(world.database).step()
    await disabled_endpoint(world, asked.account_id)
    await succeed(world, asked, ROTATE, {"apiKeyId": asked.actor.api_key_id})
    return asked


async def succeed(world: World, asked: Asked, query: str, given: dict[str, Any]) -> None:
    data = await world.data(query, {"input": given}, key=asked.key)
    (payload,) = data.values()
    assert payload["userErrors"] == []


async def recorded(world: World, account_id: str, kind: str | None = None) -> list[EventRecord]:
    statement = select(EventRecord).where(col(EventRecord.account_id) == account_id)
    if kind is not None:
        statement = statement.where(col(EventRecord.type) == kind)
    async with world.database.reading() as session:
        return list((await session.exec(statement.order_by(col(EventRecord.sequence)))).all())


async def test_what_real_events_record_is_as_the_catalogue_says(world: World) -> None:
    asked = await story(world)
    events = await recorded(world, asked.account_id)
    assert [event.type for event in events] == [
        "user.created",
        "customer.created",
        "meter.created",
        "meter.created",
        "meter.created",
        "hosted_consent.approved",
        "meter_data.received",
        "meter_data.overdue",
        "hosted_consent.revoked",
        "import.completed",
        "backfill.completed",
        "feed.attention_needed",
        "hosted_consent.declined",
        "hosted_consent.approved",
        "hosted_consent.expired",
        "webhook_endpoint.disabled",
        "api_keys.rotated",
    ]
    assert {event.type for event in events} == set(event_names())
    for event in events:
        validate(event_class(event.type), event.data)
        assert event.subject_id in ids_in(event.data)
        assert event.customer_id is None or event.customer_id in ids_in(event.data)
        # As they are sent: instants in UTC with milliseconds.
        for path, value in leaves(event.data).items():
            if isinstance(value, str) and path.endswith(("At", "from", "to", "Until")):
                assert clock.format_utc(clock.parse_utc(value)) == value
    text = orjson.dumps([event.data for event in events]).decode()
    assert [one for one in PERSONAL if one not in text] == []
    # Never a secret, a token or a link to a page.
    assert asked.token not in text
    assert asked.key not in text
    assert "vw_consent_" not in text
    assert "/consents/" not in text


async def test_a_deleted_customer_leaves_ids_and_nothing_personal_in_any_event(world: World) -> None:
    asked = await story(world)
    before = await recorded(world, asked.account_id)
    await succeed(world, asked, DELETE_CUSTOMER, {"customerId": asked.customer.id})
    after = await recorded(world, asked.account_id)
    text = orjson.dumps([event.data for event in after]).decode()
    assert [one for one in PERSONAL if one in text] == []
    for old, new in zip(before, after, strict=True):
        validate(event_class(new.type), new.data)
        assert new.data == event_class(old.type).redacted(old.data) if old.customer_id else old.data
        assert ids_in(new.data) == ids_in(old.data)
        same = {"data": None}
        assert new.model_copy(update=same) == old.model_copy(update=same)


async def test_another_customer_and_another_account_keep_what_is_theirs(world: World) -> None:
    first = await story(world)
    async with world.database.transaction() as session:
        await run_script(
            session, customers.create(session, first.actor, name="Grace Hopper", email="grace@example.com")
        )
    second = await story(world)
    theirs = await recorded(world, second.account_id)
    await succeed(world, first, DELETE_CUSTOMER, {"customerId": first.customer.id})
    assert await recorded(world, second.account_id) == theirs
    last = (await recorded(world, first.account_id))[-1]
    assert (last.data["name"], last.data["email"]) == ("Grace Hopper", "grace@example.com")


async def test_events_say_which_meters_they_name(world: World) -> None:
    asked = await story(world)
    statement = select(EventMeter).where(col(EventMeter.account_id) == asked.account_id)
    async with world.database.reading() as session:
        named = {(one.sequence, one.meter_id) for one in (await session.exec(statement)).all()}
    told = {
        (event.sequence, identifier)
        for event in await recorded(world, asked.account_id)
        for identifier in ids_in(event.data)
        if identifier.startswith("mtr_")
    }
    assert named == told
