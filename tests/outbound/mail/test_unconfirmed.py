"""The limits on mails to people who have confirmed nothing, whatever an account makes and deletes in between."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.consents import actions as consents
from app.consents import codes
from app.core.errors import ErrorCode, Refusal
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.models import UnconfirmedMail
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
from tests.delivery.destinations.email.test_subscriptions import a_minute_later
from tests.meters.asking import run
from tests.support import TestAccount, World

GRACE = "grace@example.com"
CREATE_USER = mutation("createUser", "user { id }")
DELETE_USER = mutation("deleteUser", "deletedId")


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
        actor = await consents.actor_by_token(session, asked.token)
        values: dict[str, Any] = {**WHO, "email": email, "privacy_contact": "privacy@example.com"}
        await codes.send_code(session, actor, asked.world.services.keyring, **values)


async def test_an_account_asks_an_address_three_times_a_day(world: World) -> None:
    account = await world.account()
    for email in (GRACE, "Grace@EXAMPLE.com", "grace+meters@example.com"):
        assert (await ask_and_delete(world, account, email))["userErrors"] == []
    async with unchanged(world):
        payload = await run(world, account, CREATE_SUBSCRIPTION, email=GRACE)
        assert refusals(payload) == [("LIMIT_REACHED", ["email"])]
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
    addresses = [f"grace+{one}@example.com" for one in range(30)]
    payloads = await asyncio.gather(
        *(run(world, account, CREATE_SUBSCRIPTION, email=address) for address in addresses)
    )
    codes_given = sorted(error["code"] for one in payloads for error in one["userErrors"])
    assert codes_given == ["LIMIT_REACHED"] * 27
    assert len(await outgoing_mails(world)) == 3


async def test_thirty_users_at_once_are_created_and_three_of_them_mailed(world: World) -> None:
    account = await world.account()
    addresses = [f"grace+{one}@example.com" for one in range(30)]
    payloads = await asyncio.gather(
        *(run(world, account, CREATE_USER, email=address, name="G") for address in addresses)
    )
    assert [one["userErrors"] for one in payloads] == [[]] * 30
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
    house = Housekeeping(world.database, 90, MailFiles(world.services.settings.mail_folder))
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
