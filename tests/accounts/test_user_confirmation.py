"""Confirmation of a user's address by the mailed link; notices go to confirmed addresses only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
import pytest
from starlette.applications import Starlette

from app.accounts import pages
from app.accounts.confirmation import notice_recipients
from app.graphql.http.rates import Rates
from tests.accounts.state import mutation, refusals, unchanged
from tests.consents.web import text_of
from tests.delivery.asking import outgoing_mails
from tests.delivery.destinations.email.test_pages import CROSS_SITE
from tests.delivery.destinations.email.test_pages import visitor as mail_visitor
from tests.meters.asking import run
from tests.outbound.mail.test_unconfirmed import later
from tests.support import TestAccount, World

ORIGIN = "http://127.0.0.1:8000"
USER = "id email emailConfirmedAt"
CREATE = mutation("createUser", f"user {{ {USER} }}")
UPDATE = mutation("updateUser", f"user {{ {USER} }}")


@asynccontextmanager
async def visitor(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Starlette(routes=pages.routes(world.services, Rates(1000))))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


async def links(world: World) -> list[str]:
    """The paths of the confirming links in all queued mails."""
    lines = [line for _, mail in await outgoing_mails(world) for line in mail["text"].splitlines()]
    return [line.removeprefix(ORIGIN) for line in lines if line.startswith(f"{ORIGIN}/users/confirm/")]


async def create(world: World, account: TestAccount, **values: str) -> str:
    payload = await run(
        world, account, CREATE, **{"email": "grace@example.com", "name": "Grace", "role": "ADMIN", **values}
    )
    assert payload["userErrors"] == []
    assert payload["user"]["emailConfirmedAt"] is None
    identifier: str = payload["user"]["id"]
    return identifier


async def recipients(world: World, account: TestAccount) -> list[str]:
    """The addresses that a notice about the account goes to."""
    async with world.database.transaction() as session:
        return await notice_recipients(session, world.services.mail_links, account.id)


async def confirmed_at(world: World, account: TestAccount, user_id: str) -> str | None:
    data = await world.data(
        f"query ($id: ID!) {{ user(id: $id) {{ {USER} }} }}", {"id": user_id}, key=account.key
    )
    at: str | None = data["user"]["emailConfirmedAt"]
    return at


async def test_looking_shows_and_a_bare_post_confirms(world: World) -> None:
    account = await world.account()
    user_id = await create(world, account)
    [(recipient, mail)] = await outgoing_mails(world)
    assert (recipient, mail["subject"]) == ("grace@example.com", "Confirm: notices of Bright Energy")
    [link] = await links(world)
    async with visitor(world) as client:
        async with unchanged(world):
            shown = await client.get(link)
            assert (shown.status_code, shown.text.count("<form")) == (200, 1)
            assert "From Bright Energy To grace@example.com" in text_of(shown.text)
            assert shown.headers["referrer-policy"] == "no-referrer"
        done = await client.post(link)
        assert "Confirmed: you are told when the webhooks of Bright Energy stop working." in text_of(
            done.text
        )
        at = await confirmed_at(world, account, user_id)
        assert at is not None
        async with unchanged(world):
            assert (await client.post(link)).text == done.text
            assert (await client.get(link)).text == done.text


async def test_other_tokens_confirm_nobody(world: World) -> None:
    account = await world.account()
    await create(world, account)
    [link] = await links(world)
    head, _, signature = link.rpartition(".")
    async with visitor(world) as client, unchanged(world):
        for wrong in (
            f"{link}x",
            f"{head}.{signature[:-4]}AAAA",
            head,
            link.replace("usr_", "usr_0"),
            "/users/confirm/%00",
        ):
            for answer in (await client.get(wrong), await client.post(wrong)):
                assert (answer.status_code, "This link does not work" in answer.text) == (404, True)
        assert (await client.delete(link)).status_code == 405


async def test_a_form_of_another_site_confirms_nobody(world: World) -> None:
    await create(world, await world.account())
    [link] = await links(world)
    async with visitor(world) as client, unchanged(world):
        for headers in CROSS_SITE:
            assert (await client.post(link, headers=headers)).status_code == 403


async def test_notices_go_to_confirmed_administrators_only(world: World) -> None:
    account = await world.account()
    await create(world, account)
    await create(world, account, email="member@example.com", role="MEMBER")
    [link, members] = await links(world)
    async with visitor(world) as client:
        await client.post(members)
        assert await recipients(world, account) == []
        await client.post(link)
    assert await recipients(world, account) == ["grace@example.com"]


async def test_an_accounts_first_user_is_asked_once_when_there_is_something_to_tell(world: World) -> None:
    account = await world.account()
    assert await outgoing_mails(world) == []
    for _ in range(3):
        assert await recipients(world, account) == []
    [link] = await links(world)
    async with visitor(world) as client:
        await client.post(link)
    assert await recipients(world, account) == ["owner1@example.com"]


async def test_the_first_user_may_ask_for_the_link(world: World) -> None:
    account = await world.account()
    payload = await run(world, account, UPDATE, userId=account.user_id, email="owner1@example.com")
    assert payload["userErrors"] == []
    [link] = await links(world)
    async with visitor(world) as client:
        await client.post(link)
    # The address is confirmed, so giving it again mails nobody.
    await run(world, account, UPDATE, userId=account.user_id, email="OWNER1@example.com")
    assert await links(world) == [link]
    assert await recipients(world, account) == ["OWNER1@example.com"]


async def test_another_address_has_to_be_confirmed_anew(world: World) -> None:
    account = await world.account()
    user_id = await create(world, account)
    [old] = await links(world)
    async with visitor(world) as client:
        await client.post(old)
        await run(world, account, UPDATE, userId=user_id, email="hopper@example.com")
        assert await confirmed_at(world, account, user_id) is None
        [(recipient, _)] = await outgoing_mails(world)
        assert recipient == "hopper@example.com"
        async with unchanged(world):
            assert (await client.post(old)).status_code == 404


async def test_who_unsubscribed_is_told_nothing_until_the_link_is_confirmed_again(world: World) -> None:
    account = await world.account()
    await create(world, account)
    [link] = await links(world)
    [(_, mail)] = await outgoing_mails(world)
    [stop] = [line for line in mail["text"].splitlines() if "/email-subscriptions/unsubscribe/" in line]
    async with visitor(world) as client, mail_visitor(world) as reader:
        await client.post(link)
        await reader.post(stop.removeprefix(ORIGIN))
        assert await recipients(world, account) == []
        async with unchanged(world):
            assert "Is this your address?" in (await client.get(link)).text
        assert "Your address is confirmed" in (await client.post(link)).text
        assert await recipients(world, account) == ["grace@example.com"]


async def test_an_update_without_an_email_mails_nobody(world: World) -> None:
    account = await world.account()
    user_id = await create(world, account)
    await run(world, account, UPDATE, userId=user_id, name="Rear Admiral")
    assert len(await links(world)) == 1


async def test_the_link_is_asked_for_three_times_a_day(world: World) -> None:
    account = await world.account()
    user_id = await create(world, account)
    for _ in range(2):
        payload = await run(world, account, UPDATE, userId=user_id, email="grace@example.com")
        assert payload["userErrors"] == []
    async with unchanged(world):
        payload = await run(world, account, UPDATE, userId=user_id, email="grace@example.com")
        assert refusals(payload) == [("LIMIT_REACHED", ["email"])]


async def test_a_user_at_the_limit_is_created_and_mailed_the_link_when_there_is_something_to_tell(
    world: World,
) -> None:
    account = await world.account()
    for tag in "abc":
        await create(world, account, email=f"grace+{tag}@example.com")
    user_id = await create(world, account)
    assert len(await links(world)) == 3
    async with unchanged(world):
        payload = await run(world, account, UPDATE, userId=user_id, email="grace@example.com")
        assert refusals(payload) == [("LIMIT_REACHED", ["email"])]
    assert await recipients(world, account) == []
    assert "grace@example.com" not in [recipient for recipient, _ in await outgoing_mails(world)]
    await later(world, timedelta(days=1))
    assert await recipients(world, account) == []
    assert [to for to, _ in await outgoing_mails(world)][-1] == "grace@example.com"


async def test_an_address_at_the_limit_may_become_a_users(world: World) -> None:
    account = await world.account()
    for tag in "abc":
        await create(world, account, email=f"grace+{tag}@example.com")
    payload = await run(world, account, UPDATE, userId=account.user_id, email="grace@example.com")
    assert payload == {
        "user": {"id": account.user_id, "email": "grace@example.com", "emailConfirmedAt": None},
        "userErrors": [],
    }
    assert len(await links(world)) == 3


@pytest.mark.parametrize("email", ["grace@-x.com", "grace@example.c_m"])
async def test_an_address_that_cannot_be_mailed_is_refused(world: World, email: str) -> None:
    account = await world.account()
    async with unchanged(world):
        payload = await run(world, account, CREATE, email=email, name="Grace")
        assert refusals(payload) == [("INVALID", ["email"])]
