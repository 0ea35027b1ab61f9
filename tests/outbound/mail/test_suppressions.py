"""Addresses that have unsubscribed, and how they come back."""

from sqlalchemy import select
from sqlmodel import col

from app.core.crypto import Keyring
from app.outbound.mail.addresses import address_hashes, mailbox_hashes
from app.outbound.mail.models import MailSuppression
from tests.accounts.state import refusals, unchanged
from tests.consents.web import text_of
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
from tests.outbound.mail.test_unconfirmed import CREATE_USER, GRACE, ask_and_delete
from tests.support import World

OLD_KEY, NEW_KEY = "old key " * 4, "new key " * 4


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
