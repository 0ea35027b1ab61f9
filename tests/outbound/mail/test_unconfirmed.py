"""How many mails go to people who have confirmed nothing, whatever an account makes and deletes in between."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.consents import actions as consents
from app.consents import codes
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.delivery.queue.models import MailSuppression, UnconfirmedMail
from app.outbound.mail.addresses import address_hashes, mailbox_hashes
from app.outbound.mail.rendering import without_links
from app.server.housekeeping import Housekeeping
from tests.accounts.state import mutation, refusals, unchanged
from tests.consents.helpers import WHO, Asked, ask_for_consent
from tests.consents.web import text_of
from tests.consents.web import visitor as consent_visitor
from tests.delivery.asking import (
    CREATE_SUBSCRIPTION,
    DELETE_SUBSCRIPTION,
    RESEND,
    make_subscription,
    outgoing_mails,
)
from tests.delivery.destinations.email.test_pages import subscribed, unsubscribe_path
from tests.delivery.destinations.email.test_pages import visitor as mail_visitor
from tests.delivery.destinations.email.test_subscriptions import a_minute_later, change
from tests.meters.asking import run
from tests.support import TestAccount, World

GRACE = "grace@example.com"
OLD_KEY, NEW_KEY = "old key " * 4, "new key " * 4
CREATE_USER = mutation("createUser", "user { id }")
DELETE_USER = mutation("deleteUser", "deletedId")
UPDATE_ACCOUNT = mutation("updateAccount", "account { id }")


async def ask_and_delete(world: World, account: TestAccount, email: str = GRACE) -> dict[str, Any]:
    """The payload of a subscription that is deleted as soon as it is made."""
    payload = await run(world, account, CREATE_SUBSCRIPTION, email=email)
    if payload["emailSubscription"] is not None:
        identifier = payload["emailSubscription"]["id"]
        deleted = await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=identifier)
        assert deleted["userErrors"] == []
    return payload


async def counted(world: World) -> list[str]:
    async with world.database.reading() as session:
        return sorted((await session.execute(select(col(UnconfirmedMail.kind)))).scalars())


async def later(world: World, by: timedelta) -> None:
    """As if all mails had gone out that much earlier."""
    async with world.database.transaction() as session:
        rows = (await session.execute(select(UnconfirmedMail))).scalars().all()
        for row in rows:
            row.created_at -= by


async def send_code(asked: Asked, email: str = GRACE) -> None:
    async with asked.world.database.transaction() as session:
        actor = await consents.actor_of_token(session, asked.token)
        values: dict[str, Any] = {**WHO, "email": email, "privacy_contact": "privacy@example.com"}
        await codes.send_code(session, actor, asked.world.services.keyring, **values)


async def test_an_account_asks_an_address_three_times_a_day(world: World) -> None:
    account = await world.account()
    for email in (GRACE, "Grace@EXAMPLE.com", "grace+meters@example.com"):
        assert (await ask_and_delete(world, account, email))["userErrors"] == []
    async with unchanged(world):
        payload = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
        assert refusals(payload) == [("LIMIT_REACHED", ["email"])]
        user = await run(world, account, CREATE_USER, email=GRACE, name="Grace")
        assert refusals(user) == [("LIMIT_REACHED", ["email"])]
    await later(world, timedelta(days=1))
    assert (await ask_and_delete(world, account))["userErrors"] == []


async def test_all_accounts_ask_an_address_five_times_a_day(world: World) -> None:
    accounts = [await world.account() for _ in range(3)]
    for account in (*accounts, *accounts[:2]):
        assert (await ask_and_delete(world, account))["userErrors"] == []
    async with unchanged(world):
        payload = await run(world, accounts[2], CREATE_SUBSCRIPTION, email=GRACE)
        assert refusals(payload) == [("LIMIT_REACHED", ["email"])]
    assert (await ask_and_delete(world, accounts[2], "ada@example.com"))["userErrors"] == []


@pytest.mark.both_databases
async def test_thirty_at_once_are_three(world: World) -> None:
    account = await world.account()
    payloads = await asyncio.gather(
        *(run(world, account, CREATE_USER, email=f"grace+{one}@example.com", name="G") for one in range(30))
    )
    codes_given = sorted(error["code"] for one in payloads for error in one["userErrors"])
    assert codes_given == ["LIMIT_REACHED"] * 27
    assert len(await outgoing_mails(world)) == 3


async def test_confirmations_that_are_sent_again_count(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    for _ in range(2):
        await a_minute_later(world)
        payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
        assert payload["userErrors"] == []
    await a_minute_later(world)
    async with unchanged(world):
        payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
        assert refusals(payload) == [("LIMIT_REACHED", ["emailSubscriptionId"])]


async def test_an_address_gets_five_codes_an_hour_over_all_requests(world: World) -> None:
    for _ in range(5):
        await send_code(await ask_for_consent(world))
    asked = await ask_for_consent(world)
    async with unchanged(world):
        with pytest.raises(Refusal) as refused:
            await send_code(asked, "GRACE@example.com")
    assert (refused.value.code, refused.value.field) == (ErrorCode.LIMIT_REACHED, ["consenteeEmail"])
    await send_code(asked, "ada@example.com")
    await later(world, timedelta(hours=1))
    await send_code(await ask_for_consent(world))


async def test_the_consent_page_says_so_kindly(world: World) -> None:
    for _ in range(5):
        await send_code(await ask_for_consent(world))
    asked = await ask_for_consent(world)
    form = {"action": "code", "consenteeFullName": "Grace Hopper", "consenteeEmail": GRACE}
    async with consent_visitor(world) as client, unchanged(world):
        page = await client.post(f"/consents/{asked.token}", data=form)
    assert page.status_code == 422
    assert "Several codes were sent to this address within an hour: use the last one" in text_of(page.text)


async def test_codes_and_confirmations_do_not_count_against_each_other(world: World) -> None:
    for _ in range(5):
        await send_code(await ask_for_consent(world))
    account = await world.account()
    assert (await ask_and_delete(world, account))["userErrors"] == []
    assert await counted(world) == ["CODE"] * 5 + ["INVITATION"]


async def test_no_address_is_kept_in_the_count(world: World) -> None:
    account = await world.account()
    await ask_and_delete(world, account)
    async with world.database.reading() as session:
        [row] = (await session.execute(select(UnconfirmedMail))).scalars()
    assert len(bytes.fromhex(row.mailbox_hash)) == 18
    assert "grace" not in repr(row)


async def test_the_count_goes_when_no_limit_needs_it(world: World) -> None:
    await send_code(await ask_for_consent(world))
    await ask_and_delete(world, await world.account())
    house = Housekeeping(world.database, retention_days=90)
    await later(world, timedelta(minutes=59))
    await house.run()
    assert await counted(world) == ["CODE", "INVITATION"]
    await later(world, timedelta(minutes=1))
    await house.run()
    assert await counted(world) == ["INVITATION"]
    await later(world, timedelta(hours=23))
    await house.run()
    assert await counted(world) == []


async def test_deleting_cancels_what_is_queued(world: World) -> None:
    account = await world.account()
    await ask_and_delete(world, account)
    user = (await run(world, account, CREATE_USER, email=GRACE, name="Grace"))["user"]
    assert [recipient for recipient, _ in await outgoing_mails(world)] == [GRACE]
    await run(world, account, DELETE_USER, userId=user["id"])
    assert await outgoing_mails(world) == []


@pytest.mark.parametrize("kind", ["subscription", "user", "code"])
async def test_a_link_in_an_accounts_name_is_not_shown(world: World, kind: str) -> None:
    account = await world.account()
    name = "Prize: https://evil.example/x or evil.example"
    if kind == "code":
        asked = await ask_for_consent(world)
        await run(world, TestAccount(asked.account_id, "", asked.key), UPDATE_ACCOUNT, name=name)
        await send_code(asked)
    else:
        await run(world, account, UPDATE_ACCOUNT, name=name)
        document, values = (
            (CREATE_SUBSCRIPTION, {}) if kind == "subscription" else (CREATE_USER, {"name": name})
        )
        await run(world, account, document, email=GRACE, **values)
    [(_, mail)] = await outgoing_mails(world)
    assert "Prize: [link removed] or [link removed]" in mail["subject"]
    for part in mail.values():
        assert "evil" not in part


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Bright Energy Ltd.", "Bright Energy Ltd."),
        ("E.ON, J.P. Morgan & St. James's", "E.ON, J.P. Morgan & St. James's"),
        ("No. 1: 10.5 kWh a/c", "No. 1: 10.5 kWh a/c"),
        ("www.evil", "[link removed]"),
        ("(EVIL.com).", "[link removed]"),
        ("evil。com now", "[link removed] now"),
        ("t.co", "[link removed]"),
        ("E.ON/win", "[link removed]"),
        ("ring me@evil.com", "ring [link removed]"),
        ("ftp://x", "[link removed]"),
        ("10.0.0.1", "[link removed]"),
        ("größe.de", "[link removed]"),
        ("evil\u200b.com", "[link removed]"),
        ("e\u00advil.\u2060com", "[link removed]"),
    ],
)
def test_what_looks_like_a_link_is_left_out(name: str, shown: str) -> None:
    assert without_links(name) == shown


async def suppressed(world: World) -> int:
    async with world.database.reading() as session:
        lifted = col(MailSuppression.lifted_at).is_(None)
        return len((await session.execute(select(MailSuppression).where(lifted))).all())


async def test_who_unsubscribed_is_not_asked_again(world: World) -> None:
    account, subscription_id, confirm, unsubscribe = await subscribed(world)
    async with mail_visitor(world) as client:
        await client.post(confirm)
        await client.post(unsubscribe)
        await a_minute_later(world)
        async with unchanged(world):
            created = await run(world, account, CREATE_SUBSCRIPTION, email="GRACE@example.com")
            assert refusals(created) == [("CONFLICT", ["email"])]
            resent = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
            assert refusals(resent) == [("CONFLICT", ["emailSubscriptionId"])]
            shown = await client.get(confirm)
            assert "Do you want these mails again?" in shown.text
        await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=subscription_id)
        async with unchanged(world):
            created = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
            assert refusals(created) == [("CONFLICT", ["email"])]
    # Another account may ask.
    await make_subscription(world, await world.account())


async def test_who_unsubscribed_is_not_asked_under_a_tag_either(world: World) -> None:
    account, _, confirm, unsubscribe = await subscribed(world)
    tagged = "Grace+volt@example.com"
    async with mail_visitor(world) as client:
        await client.post(unsubscribe)
        async with unchanged(world):
            created = await run(world, account, CREATE_SUBSCRIPTION, email=tagged)
            assert refusals(created) == [("CONFLICT", ["email"])]
        user = await run(world, account, CREATE_USER, email=tagged, name="Grace")
        assert (user["userErrors"], await outgoing_mails(world)) == ([], [])
        # Another account may ask, and this one again once the person says so.
        await make_subscription(world, await world.account(), tagged)
        await client.post(confirm)
    await make_subscription(world, account, tagged)


async def test_who_unsubscribed_under_a_tag_is_asked_at_the_plain_address(world: World) -> None:
    account, _, _, unsubscribe = await subscribed(world, email="grace+volt@example.com")
    async with mail_visitor(world) as client:
        await client.post(unsubscribe)
    created = await run(world, account, CREATE_SUBSCRIPTION, email="grace+volt@example.com")
    assert refusals(created) == [("CONFLICT", ["email"])]
    await make_subscription(world, account)


async def test_one_mailbox_of_gmail_has_many_spellings(world: World) -> None:
    account = await world.account()
    for email in ("grace.hopper@gmail.com", "g.racehopper@gmail.com", "GraceHopper+x@googlemail.com"):
        assert (await ask_and_delete(world, account, email))["userErrors"] == []
    for email in ("gracehopper@gmail.com", "g.r.a.c.e.hopper@googlemail.com"):
        assert refusals(await ask_and_delete(world, account, email)) == [("LIMIT_REACHED", ["email"])]
    # Elsewhere a dot makes another mailbox.
    for email in ("grace.hopper@example.com",) * 3 + ("gracehopper@example.com",) * 3:
        assert (await ask_and_delete(world, account, email))["userErrors"] == []


async def test_confirming_by_an_earlier_mail_brings_the_mails_back(world: World) -> None:
    account, _, confirm, unsubscribe = await subscribed(world)
    async with mail_visitor(world) as client:
        await client.post(confirm)
        await client.post(unsubscribe)
        back = await client.post(confirm)
        assert (back.status_code, "Confirmed: mails come from now on." in back.text) == (200, True)
        assert await suppressed(world) == 0
        async with unchanged(world):
            assert (await client.post(confirm)).text == back.text
            taken = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
            assert refusals(taken) == [("TAKEN", ["email"])]
        await client.post(unsubscribe)
        assert await suppressed(world) == 1


async def test_an_earlier_mail_of_a_deleted_subscription_lifts_it_too(world: World) -> None:
    account, subscription_id, confirm, unsubscribe = await subscribed(world)
    async with mail_visitor(world) as client:
        await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=subscription_id)
        assert "Stop these mails?" in (await client.get(unsubscribe)).text
        assert "You are unsubscribed." in (await client.post(unsubscribe)).text
        created = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
        assert refusals(created) == [("CONFLICT", ["email"])]
        assert "Do you want these mails again?" in (await client.get(confirm)).text
        lifted = await client.post(confirm)
        assert "Bright Energy may send you a new confirmation." in text_of(lifted.text)
        async with unchanged(world):
            assert (await client.post(confirm)).text == lifted.text
            assert (await client.get(confirm)).text == lifted.text
    await make_subscription(world, account)


async def test_an_old_mails_link_ends_a_newer_subscription_as_well(world: World) -> None:
    account, first, _, unsubscribe = await subscribed(world)
    await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=first)
    second = await make_subscription(world, account)
    await make_subscription(world, account, "ada@example.com")
    async with mail_visitor(world) as client:
        await client.post(unsubscribe)
    query = "{ emailSubscriptions(first: 10) { nodes { id status } } }"
    shown = (await world.data(query, key=account.key))["emailSubscriptions"]["nodes"]
    assert [one["status"] for one in shown] == ["UNSUBSCRIBED", "PENDING"]
    assert shown[0]["id"] == second
    assert [recipient for recipient, _ in await outgoing_mails(world)] == ["ada@example.com"]


async def test_the_link_of_a_mail_of_before_suppresses_while_its_subscription_is_there(world: World) -> None:
    account, subscription_id, _, _ = await subscribed(world)
    async with mail_visitor(world) as client:
        await client.post(unsubscribe_path(world, subscription_id))
    created = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
    assert refusals(created) == [("CONFLICT", ["email"])]


async def test_who_unsubscribed_before_there_was_a_list_is_not_asked_again_either(world: World) -> None:
    account, subscription_id, confirm, _ = await subscribed(world)
    await change(world, subscription_id, status="UNSUBSCRIBED", confirm_sent_at=None)
    async with unchanged(world):
        created = await run(world, account, CREATE_SUBSCRIPTION, email="GRACE@example.com")
        assert refusals(created) == [("CONFLICT", ["email"])]
        resent = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
        assert refusals(resent) == [("CONFLICT", ["emailSubscriptionId"])]
    async with mail_visitor(world) as client:
        assert "Confirmed: mails come from now on." in (await client.post(confirm)).text
    await change(world, subscription_id, status="UNSUBSCRIBED")
    await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=subscription_id)
    async with unchanged(world):
        created = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
        assert refusals(created) == [("CONFLICT", ["email"])]


async def test_one_who_wants_no_mails_is_not_asked_as_a_user_either(world: World) -> None:
    account, _, _, unsubscribe = await subscribed(world)
    async with mail_visitor(world) as client:
        await client.post(unsubscribe)
    created = await run(world, account, CREATE_USER, email=GRACE, name="Grace")
    assert created["userErrors"] == []
    assert await outgoing_mails(world) == []


def test_hashes_of_a_replaced_key_are_found() -> None:
    before, during = Keyring([OLD_KEY]), Keyring([NEW_KEY, OLD_KEY])
    assert address_hashes(before, GRACE)[0] in address_hashes(during, "Grace@example.com")
    assert mailbox_hashes(before, GRACE)[0] in mailbox_hashes(during, "grace+x@example.com")
    assert address_hashes(during, GRACE)[0] not in address_hashes(before, GRACE)
    assert not set(address_hashes(during, GRACE)) & set(mailbox_hashes(during, GRACE))
