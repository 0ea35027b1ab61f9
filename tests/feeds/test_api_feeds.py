"""Feeds through the API: making, changing and deleting them, their rules, and the checking of credentials."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.core import clock
from app.core.crypto import Keyring
from app.feeds.credentials import opened
from app.feeds.models import Feed
from tests.accounts.state import events, refusals, unchanged
from tests.consents.helpers import mails
from tests.feeds.feeding import ail, confirmed
from tests.feeds.small_source import (
    CHECK,
    CREATE,
    DELETE,
    FEED,
    KEY,
    UPDATE,
    fed,
    feeding,
    listing,
)
from tests.meters.asking import run
from tests.services.receiver import Answer, Receiver
from tests.support import SECRET, World

GIVEN = {"kind": "OCTOPUS", "name": "Homes", "credentials": {"apiKey": KEY}}


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    async with feeding(migrated_url) as opened:
        yield opened


@pytest.fixture
async def small_world(small_world: World) -> AsyncIterator[World]:
    async with feeding(small_world.services.settings.database_url or "") as opened:
        yield opened


async def stored(world: World, feed_id: str) -> Feed:
    async with world.database.reading() as session:
        return await session.get_one(Feed, feed_id)


async def test_a_feed_is_made_changed_and_deleted(world: World) -> None:
    account = await world.account()
    settings = {"accountNumber": "A-1234", "baseUrl": "https://sandbox.small.example/v1/"}
    made = await run(world, account, CREATE, **GIVEN, settings=settings)
    feed = made["feed"]
    assert made["userErrors"] == []
    assert feed == {
        "id": feed["id"],
        "kind": "OCTOPUS",
        "name": "Homes",
        "status": "ACTIVE",
        "attention": None,
        "settings": {"accountNumber": "A-1234", "baseUrl": "https://sandbox.small.example/v1"},
        "lastRunAt": None,
        "nextRunAt": None,
        "createdAt": feed["createdAt"],
        "updatedAt": feed["createdAt"],
    }
    row = await stored(world, feed["id"])
    assert opened(world.services.keyring, row.credentials_encrypted) == {"apiKey": KEY}
    paused = await run(world, account, UPDATE, feedId=feed["id"], name=" All homes ", status="PAUSED")
    assert (paused["feed"]["name"], paused["feed"]["status"]) == ("All homes", "PAUSED")
    assert paused["feed"]["settings"] == feed["settings"]
    other = await run(world, account, CREATE, **{**GIVEN, "name": "Offices"})
    query = f"{{ feeds(first: 1) {{ nodes {{ {FEED} }} pageInfo {{ hasNextPage }} }} }}"
    page = (await world.data(query, key=account.key))["feeds"]
    assert page == {"nodes": [paused["feed"]], "pageInfo": {"hasNextPage": True}}
    deleted = await run(world, account, DELETE, feedId=feed["id"])
    assert deleted == {"deletedId": feed["id"], "userErrors": []}
    left = (await world.data("{ feeds { nodes { id } } }", key=account.key))["feeds"]["nodes"]
    assert left == [{"id": other["feed"]["id"]}]
    assert refusals(await run(world, account, DELETE, feedId=feed["id"])) == [("NOT_FOUND", ["feedId"])]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"kind": "N3RGY"}, [("INVALID", ["kind"])]),
        ({"name": " "}, [("REQUIRED", ["name"])]),
        ({"name": "x" * 201}, [("TOO_LONG", ["name"])]),
        ({"credentials": KEY}, [("INVALID", ["credentials"])]),
        ({"credentials": [KEY]}, [("INVALID", ["credentials"])]),
        ({"credentials": {}}, [("REQUIRED", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": ""}}, [("REQUIRED", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": 7}}, [("REQUIRED", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": None}}, [("REQUIRED", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": "k" * 501}}, [("TOO_LONG", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": "a\r\nb: c"}}, [("INVALID", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": "clé"}}, [("INVALID", ["credentials", "apiKey"])]),
        ({"credentials": {"apiKey": KEY, "key": "x"}}, [("INVALID", ["credentials"])]),
        ({"settings": "none"}, [("INVALID", ["settings"])]),
        ({"settings": {"serial": "S1"}}, [("INVALID", ["settings", "serial"])]),
        ({"settings": {"accountNumber": "1234"}}, [("INVALID", ["settings", "accountNumber"])]),
        ({"settings": {"accountNumber": 1234}}, [("INVALID", ["settings", "accountNumber"])]),
        ({"settings": {"accountNumber": "A" * 501}}, [("TOO_LONG", ["settings", "accountNumber"])]),
        (
            {"name": "", "settings": {"a": "b"}, "credentials": {}},
            [
                ("REQUIRED", ["name"]),
                ("INVALID", ["settings", "a"]),
                ("REQUIRED", ["credentials", "apiKey"]),
            ],
        ),
        ({"settings": {str(at): "" for at in range(1000)}}, [("INVALID", ["settings", str(at)]) for at in range(10)]),
        (
            {"kind": "GLOWMARKT", "credentials": {"username": "ada", "password": "Füße £"}},
            [("REQUIRED", ["settings", "site"])],
        ),
    ],
)  # fmt: skip
async def test_what_a_kind_does_not_take_is_refused(
    small_world: World, changes: dict[str, Any], refused: Any
) -> None:
    account = await small_world.account()
    async with unchanged(small_world):
        payload = await run(small_world, account, CREATE, **{**GIVEN, **changes})
    assert refusals(payload) == refused
    assert KEY not in str(payload)


async def test_a_refusal_names_what_there_is(small_world: World) -> None:
    account = await small_world.account()
    payload = await run(small_world, account, CREATE, **GIVEN, settings={"zone": "UTC"})
    [error] = payload["userErrors"]
    assert error["message"] == (
        "There is no zone among the settings of this kind; there are: accountNumber, baseUrl."
    )
    payload = await run(small_world, account, CREATE, **{**GIVEN, "kind": "PERSE"})
    [error] = payload["userErrors"]
    assert error["message"] == "This server has no sources of the kind PERSE; it has: GLOWMARKT, OCTOPUS."


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.example.com", True),
        ("https://api.example.com/v1/", True),
        ("http://127.0.0.1:9000/v1", True),
        ("http://localhost:9000", True),
        ("http://stand-in:9000", True),
        ("http://api.example.com", False),
        ("http://203.0.113.7", False),
        ("https://10.0.0.1", False),
        ("https://169.254.169.254/latest", False),
        ("https://ada:secret@api.example.com", False),
        ("https://api.example.com/?key=1", False),
        ("https://api.example.com/#a", False),
        ("ftp://api.example.com", False),
        ("api.example.com", False),
        ("https://" + "a" * 2050, False),
        ("", False),
    ],
)
async def test_a_base_url_is_guarded_as_webhooks_are(small_world: World, url: str, may: bool) -> None:
    account = await small_world.account()
    payload = await run(small_world, account, CREATE, **GIVEN, settings={"baseUrl": url})
    if may:
        assert payload["feed"]["settings"] == {"baseUrl": url.rstrip("/")}
    else:
        assert refusals(payload) == [("URL_NOT_ALLOWED", ["settings", "baseUrl"])]


async def test_the_guard_names_the_setting_that_opens_it(small_world: World) -> None:
    async with feeding(small_world.services.settings.database_url or "", feed_allow_networks="") as world:
        account = await world.account()
        for url in ("http://127.0.0.1:9000", "https://localhost", "http://stand-in:9000"):
            payload = await run(world, account, CREATE, **GIVEN, settings={"baseUrl": url})
            assert refusals(payload) == [("URL_NOT_ALLOWED", ["settings", "baseUrl"])]
            assert "VOLTWIRE_FEED_ALLOW_NETWORKS" in payload["userErrors"][0]["message"]


async def test_another_host_gets_credentials_only_if_they_are_sent_again(small_world: World) -> None:
    feed = await fed(small_world)
    before = (await stored(small_world, feed.feed_id)).credential_key
    async with unchanged(small_world):
        payload = await feed.run(UPDATE, feedId=feed.feed_id, settings={"baseUrl": "https://thief.example"})
        assert refusals(payload) == [("REQUIRED", ["credentials"])]
    moved = await feed.run(
        UPDATE,
        feedId=feed.feed_id,
        settings={"baseUrl": "https://new.example"},
        credentials={"apiKey": KEY},
    )
    assert moved["feed"]["settings"] == {"baseUrl": "https://new.example"}
    assert (await stored(small_world, feed.feed_id)).credential_key != before
    kept = await feed.run(
        UPDATE, feedId=feed.feed_id, settings={"baseUrl": "https://new.example", "accountNumber": "A-0001"}
    )
    assert kept["userErrors"] == []


async def test_an_update_refuses_what_cannot_be(small_world: World) -> None:
    feed = await fed(small_world)
    async with unchanged(small_world):
        for changes, refused in (
            ({"name": None}, [("REQUIRED", ["name"])]),
            ({"status": None}, [("REQUIRED", ["status"])]),
            ({"credentials": None}, [("REQUIRED", ["credentials"])]),
            ({"status": "NEEDS_ATTENTION"}, [("INVALID", ["status"])]),
            ({"settings": {"no": "1"}, "name": ""}, [("INVALID", ["settings", "no"]), ("REQUIRED", ["name"])]),
        ):  # fmt: skip
            payload = await feed.run(UPDATE, feedId=feed.feed_id, **changes)
            assert sorted(refusals(payload)) == sorted(refused)


async def test_an_account_has_a_hundred_feeds_at_most(small_world: World) -> None:
    feed = await fed(small_world)
    row = (await stored(small_world, feed.feed_id)).model_dump(exclude={"id"})
    async with small_world.database.transaction() as session:
        session.add_all(Feed(**row) for _ in range(99))
    assert refusals(await feed.run(CREATE, **GIVEN)) == [("LIMIT_REACHED", [])]
    await feed.run(DELETE, feedId=feed.feed_id)
    assert (await feed.run(CREATE, **GIVEN))["userErrors"] == []


async def test_equal_credentials_share_a_key_also_after_a_rotation(small_world: World) -> None:
    first = await fed(small_world)
    second, third = await fed(small_world), await fed(small_world, key="another")
    keys = [(await stored(small_world, one.feed_id)).credential_key for one in (first, second, third)]
    assert keys[0] == keys[1] != keys[2]
    rotated = f"{'n' * 32},{SECRET}"
    url = small_world.services.settings.database_url or ""
    async with feeding(url, secret_key=rotated) as world:
        made = (await run(world, first.account, CREATE, **GIVEN))["feed"]
        row = await stored(world, made["id"])
        assert row.credential_key == keys[0]
        # The new key encrypts, and the old one is still read.
        assert opened(Keyring(["n" * 32]), row.credentials_encrypted) == {"apiKey": KEY}


async def test_a_check_says_which_meters_the_source_shows(world: World, receiver: Receiver) -> None:
    listing(receiver, "9999999999999", "9999999999998")
    feed = await fed(world, receiver)
    payload = await feed.run(CHECK, feedId=feed.feed_id)
    assert payload == {
        "feed": await feed.feed(),
        "discoveredMeters": [
            {"number": number, "type": "ELECTRICITY", "channel": "IMPORT", "description": "At home"}
            for number in ("9999999999999", "9999999999998")
        ],
        "userErrors": [],
    }
    assert payload["feed"]["status"] == "ACTIVE"


async def test_refused_credentials_need_a_person_once(world: World, receiver: Receiver) -> None:
    listing(receiver)
    feed = await fed(world, receiver, key="wrong")
    await confirmed(world)
    sentence = (
        "The source refuses the credentials (401): send valid ones with updateFeed. It says: Invalid API key."
    )
    for _ in range(2):
        payload = await feed.run(CHECK, feedId=feed.feed_id)
        assert payload["userErrors"] == [{"code": "INVALID", "message": sentence, "field": ["feedId"]}]
        assert (payload["feed"]["status"], payload["feed"]["attention"]) == ("NEEDS_ATTENTION", sentence)
        assert payload["discoveredMeters"] is None
    log = [one for one in await events(world, feed.account.id) if one.type == "feed.attention_needed"]
    assert [one.data for one in log] == [{"feedId": feed.feed_id, "kind": "OCTOPUS", "attention": sentence}]
    [mail] = await mails(world)
    assert mail["recipient"] == "owner1@example.com"
    assert mail["subject"] == "A feed needs you: Homes (Bright Energy)"
    assert sentence in " ".join(mail["text"].split())
    assert f'checkFeed(input: {{feedId: "{feed.feed_id}"}})' in mail["text"]
    mended = await feed.run(UPDATE, feedId=feed.feed_id, credentials={"apiKey": KEY})
    assert (mended["feed"]["status"], mended["feed"]["attention"]) == ("ACTIVE", None)
    assert (await feed.run(CHECK, feedId=feed.feed_id))["userErrors"] == []


async def test_a_check_that_succeeds_lets_a_feed_go_on(small_world: World, receiver: Receiver) -> None:
    listing(receiver)
    feed = await fed(small_world, receiver)
    await ail(small_world, feed.feed_id)
    assert (await feed.feed())["status"] == "NEEDS_ATTENTION"
    payload = await feed.run(CHECK, feedId=feed.feed_id)
    assert (payload["feed"]["status"], payload["feed"]["attention"]) == ("ACTIVE", None)
    await feed.run(UPDATE, feedId=feed.feed_id, status="PAUSED")
    assert (await feed.run(CHECK, feedId=feed.feed_id))["feed"]["status"] == "PAUSED"


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        (Answer(500), "CONFLICT", "ACTIVE"),
        (Answer(429, headers={"retry-after": "60"}), "LIMIT_REACHED", "ACTIVE"),
        (Answer(404), "CONFLICT", "ACTIVE"),
        (Answer(200, body=b"<html>"), "CONFLICT", "ACTIVE"),
        (Answer(302, headers={"location": "https://elsewhere.example"}), "INVALID", "NEEDS_ATTENTION"),
        (Answer(drop=True), "CONFLICT", "ACTIVE"),
    ],
)
async def test_only_a_failure_of_the_feed_needs_a_person(
    small_world: World, receiver: Receiver, answer: Answer, code: str, status: str
) -> None:
    receiver.on("/meters", answer)
    feed = await fed(small_world, receiver)
    payload = await feed.run(CHECK, feedId=feed.feed_id)
    assert [one["code"] for one in payload["userErrors"]] == [code]
    assert payload["userErrors"][0]["message"].endswith((".", "it is asked again."))
    assert (payload["feed"]["status"], payload["discoveredMeters"]) == (status, None)


async def test_a_lost_key_of_the_deployment_is_told(small_world: World, receiver: Receiver) -> None:
    listing(receiver)
    feed = await fed(small_world, receiver)
    async with small_world.database.transaction() as session:
        lost = Keyring(["l" * 32]).encrypt('{"apiKey":"x"}')
        await session.execute(update(Feed).values(credentials_encrypted=lost))
    payload = await feed.run(CHECK, feedId=feed.feed_id)
    [error] = payload["userErrors"]
    assert error["message"] == "The credentials cannot be read any more: send them again with updateFeed."
    assert (payload["feed"]["status"], list(receiver.requests)) == ("NEEDS_ATTENTION", [])


async def test_a_feed_is_not_checked_without_end(small_world: World, receiver: Receiver) -> None:
    listing(receiver)
    feed = await fed(small_world, receiver)
    codes: list[str] = []
    for _ in range(10):
        codes += [one["code"] for one in (await feed.run(CHECK, feedId=feed.feed_id))["userErrors"]]
    # Six at once; one more for each ten seconds that this took.
    asked = len(receiver.to("/meters"))
    assert codes == ["LIMIT_REACHED"] * (10 - asked)
    assert asked >= 6
    async with small_world.database.transaction() as session:
        await session.execute(update(Feed).values(checks_until=clock.now()))
    assert (await feed.run(CHECK, feedId=feed.feed_id))["userErrors"] == []


async def test_a_repeated_check_asks_its_source_once(small_world: World, receiver: Receiver) -> None:
    listing(receiver, "9999999999999")
    feed = await fed(small_world, receiver)
    first = await feed.run(CHECK, feedId=feed.feed_id, idempotencyKey="once")
    assert await feed.run(CHECK, feedId=feed.feed_id, idempotencyKey="once") == first
    assert len(receiver.to("/meters")) == 1
    other = await fed(small_world, receiver)
    payload = await feed.run(CHECK, feedId=other.feed_id, idempotencyKey="once")
    assert refusals(payload) == [("IDEMPOTENCY_KEY_REUSED", ["idempotencyKey"])]


async def test_no_transaction_is_open_while_a_source_is_asked(world: World, receiver: Receiver) -> None:
    receiver.on("/meters", Answer(200, body=b"[]", hold=True))
    feed = await fed(world, receiver)
    checking = asyncio.create_task(feed.run(CHECK, feedId=feed.feed_id))
    await receiver.wait_for(1)
    # The same feed can be changed, which a lock or SQLite's one writer would hold up.
    changed = await feed.run(UPDATE, feedId=feed.feed_id, name="Changed meanwhile")
    assert changed["userErrors"] == []
    receiver.release()
    payload = await checking
    assert (payload["feed"]["name"], payload["userErrors"]) == ("Changed meanwhile", [])


async def test_the_result_of_a_check_is_that_of_the_credentials_it_tried(
    small_world: World, receiver: Receiver
) -> None:
    receiver.on("/meters", Answer(401, body=b"{}", hold=True))
    feed = await fed(small_world, receiver, key="wrong")
    checking = asyncio.create_task(feed.run(CHECK, feedId=feed.feed_id))
    await receiver.wait_for(1)
    await feed.run(UPDATE, feedId=feed.feed_id, credentials={"apiKey": KEY})
    receiver.release()
    assert refusals(await checking) == [("CONFLICT", ["feedId"])]
    assert (await feed.feed())["status"] == "ACTIVE"


async def test_a_deleted_feed_takes_its_credentials_along(small_world: World) -> None:
    feed = await fed(small_world)
    await feed.run(DELETE, feedId=feed.feed_id)
    async with small_world.database.reading() as session:
        assert (await session.execute(select(col(Feed.id)))).all() == []
