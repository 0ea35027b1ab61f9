"""The pages behind the links in mails, as a person, a mail program and a mailbox provider's robot use them."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from playwright.async_api import Page
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.core import clock
from app.delivery.destinations.email import pages
from app.graphql.http.rates import Rates
from app.web.render import TEMPLATES
from tests.accounts.state import unchanged
from tests.consents.web import text_of
from tests.delivery.asking import (
    DELETE_SUBSCRIPTION,
    activate,
    confirmation_token,
    deliveries_of,
    dispatch,
    make_subscription,
    outgoing_mails,
    subscription_row,
)
from tests.delivery.destinations.email.test_subscriptions import change
from tests.meters.asking import run
from tests.support import TestAccount, World

ORIGIN = "http://127.0.0.1:8000"
OWN_SITE = [
    {"Origin": ORIGIN},
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
]
CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"},
]


def app_of(world: World) -> Starlette:
    static = Mount("/static", StaticFiles(directory=TEMPLATES.parent / "static"))
    return Starlette(routes=[*pages.routes(world.services, Rates(1000)), static])


@asynccontextmanager
async def visitor(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app_of(world)), base_url=ORIGIN) as client:
        yield client


async def subscribed(world: World, **values: object) -> tuple[TestAccount, str, str, str]:
    """An account, a subscription that waits for its address, and the paths of its two pages."""
    account = await world.account()
    subscription_id = await make_subscription(world, account, **values)
    _, mail = (await outgoing_mails(world))[-1]
    links = [line.removeprefix(ORIGIN) for line in mail["text"].splitlines() if line.startswith(ORIGIN)]
    confirm, unsubscribe = links
    return account, subscription_id, confirm, unsubscribe


def unsubscribe_path(world: World, subscription_id: str) -> str:
    """As a mail of before had it, whose link said nothing of the address."""
    signature = world.services.keyring.sign("unsubscribe", subscription_id.encode(), 18)
    return f"/email-subscriptions/unsubscribe/{subscription_id}.{urlsafe_b64encode(signature).decode()}"


async def status_of(world: World, subscription_id: str) -> str:
    return (await subscription_row(world, subscription_id)).status


async def test_looking_changes_nothing(world: World) -> None:
    _, subscription_id, confirm, unsubscribe = await subscribed(world, eventTypes=["meter.*", "user.created"])
    async with visitor(world) as client, unchanged(world):
        for path, title in (
            (confirm, "Do you want these mails?"),
            (unsubscribe, "Stop these mails?"),
        ):
            shown = await client.get(path)
            assert shown.status_code == 200
            assert f"<title>{title}</title>" in shown.text
            text = text_of(shown.text)
            assert "From Bright Energy To grace@example.com About Meter created, User created" in text
            assert shown.text.count("<form") == 1
            assert '<form method="post">' in shown.text
            assert (await client.head(path)).status_code == 200
    assert await status_of(world, subscription_id) == "PENDING"


async def test_a_bare_post_confirms_and_may_be_repeated(world: World) -> None:
    _, subscription_id, confirm, _ = await subscribed(world)
    async with visitor(world) as client:
        done = await client.post(confirm)
        assert done.status_code == 200
        assert "Confirmed: mails come from now on." in text_of(done.text)
        assert "About All events" in text_of(done.text)
        assert "<form" not in done.text
        assert await status_of(world, subscription_id) == "ACTIVE"
        async with unchanged(world):
            again = await client.post(confirm)
            assert (again.status_code, again.text) == (200, done.text)
            looked = await client.get(confirm)
            assert (looked.status_code, looked.text) == (200, done.text)


@pytest.mark.parametrize(
    "request_body",
    [
        {},
        {"data": {"List-Unsubscribe": "One-Click"}},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"content": b"\xff" * 100_000},
    ],
)
async def test_a_bare_post_unsubscribes_whatever_its_body(
    world: World, request_body: dict[str, object]
) -> None:
    _, subscription_id, _, unsubscribe = await subscribed(world)
    await activate(world, subscription_id)
    await dispatch(world)
    async with visitor(world) as client:
        done = await client.post(unsubscribe, **request_body)  # type: ignore[arg-type]
        assert done.status_code == 200
        assert "You are unsubscribed." in text_of(done.text)
        assert await status_of(world, subscription_id) == "UNSUBSCRIBED"
        assert [one.status for one in await deliveries_of(world, subscription_id)] == ["CANCELLED"]
        async with unchanged(world):
            again = await client.post(unsubscribe, **request_body)  # type: ignore[arg-type]
            assert (again.status_code, again.text) == (200, done.text)
            looked = await client.get(unsubscribe)
            assert (looked.status_code, looked.text) == (200, done.text)


@pytest.mark.parametrize("headers", OWN_SITE, ids=str)
async def test_a_form_of_our_own_acts(world: World, headers: dict[str, str]) -> None:
    _, subscription_id, confirm, _ = await subscribed(world)
    async with visitor(world) as client:
        assert (await client.post(confirm, headers=headers)).status_code == 200
    assert await status_of(world, subscription_id) == "ACTIVE"


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
async def test_a_form_of_another_site_does_nothing(world: World, headers: dict[str, str]) -> None:
    """The person who made the subscription has the link's token, and could else let the victim's browser confirm it."""
    _, _, confirm, unsubscribe = await subscribed(world)
    async with visitor(world) as client, unchanged(world):
        for path in (confirm, unsubscribe):
            refused = await client.post(path, headers=headers)
            assert refused.status_code == 403
            assert "This form came from another site" in text_of(refused.text)
            assert (await client.get(path, headers=headers)).status_code == 200


async def test_who_was_not_confirmed_may_unsubscribe_as_well(world: World) -> None:
    _, subscription_id, _, unsubscribe = await subscribed(world)
    async with visitor(world) as client:
        assert (await client.post(unsubscribe)).status_code == 200
    assert await status_of(world, subscription_id) == "UNSUBSCRIBED"
    assert await outgoing_mails(world) == []


async def test_a_subscription_that_was_deleted_sends_nothing_more(world: World) -> None:
    account, subscription_id, confirm, _ = await subscribed(world)
    await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=subscription_id)
    old = unsubscribe_path(world, subscription_id)
    async with visitor(world) as client, unchanged(world):
        for answer in (await client.get(old), await client.post(old)):
            assert answer.status_code == 200
            assert "You are unsubscribed." in text_of(answer.text)
            assert "grace@example.com" not in answer.text
        assert (await client.post(confirm)).status_code == 404


async def test_an_expired_confirmation_is_gone(world: World) -> None:
    _, _, confirm, _ = await subscribed(world)
    await change(world, confirm_until=clock.now())
    async with visitor(world) as client, unchanged(world):
        for answer in (await client.get(confirm), await client.post(confirm)):
            assert answer.status_code == 410
            assert "This link has expired" in text_of(answer.text)
            assert "grace@example.com" not in answer.text


async def test_made_up_tokens_lead_nowhere(world: World) -> None:
    _, subscription_id, confirm, unsubscribe = await subscribed(world)
    other = unsubscribe_path(world, "ems_01jdf3w8q2k7c9v5m1x0a4b6d8").rpartition(".")[2]
    paths = [
        "/email-subscriptions/confirm/vw_confirm_made-up",
        f"{confirm}x",
        f"/email-subscriptions/confirm/{subscription_id}",
        f"/email-subscriptions/unsubscribe/{subscription_id}",
        f"/email-subscriptions/unsubscribe/{subscription_id}.",
        f"/email-subscriptions/unsubscribe/{subscription_id}.{other}",
        f"{unsubscribe[:-4]}AAAA",
        "/email-subscriptions/unsubscribe/%00%ff",
    ]
    async with visitor(world) as client, unchanged(world):
        for path in paths:
            for answer in (await client.get(path), await client.post(path)):
                assert answer.status_code == 404, path
                assert "This link does not work" in text_of(answer.text)


async def test_every_answer_is_closed_to_caches_frames_and_referrers(world: World) -> None:
    _, _, confirm, unsubscribe = await subscribed(world)
    async with visitor(world) as client:
        answers = [
            await client.get(confirm),
            await client.get("/email-subscriptions/confirm/x"),
            await client.get(unsubscribe),
            await client.post(confirm),
            await client.post(unsubscribe),
            await client.post("/email-subscriptions/unsubscribe/x"),
        ]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert "set-cookie" not in answer.headers


async def test_other_methods_are_not_allowed(world: World) -> None:
    _, _, confirm, unsubscribe = await subscribed(world)
    async with visitor(world) as client, unchanged(world):
        for path in (confirm, unsubscribe):
            assert (await client.delete(path)).status_code == 405
            assert (await client.put(path)).status_code == 405


async def test_names_are_text_on_the_page(world: World) -> None:
    account = await world.account('<b>Bright</b> & "Energy"')
    await make_subscription(world, account)
    async with visitor(world) as client:
        shown = await client.get(f"/email-subscriptions/confirm/{await confirmation_token(world)}")
    assert "<b>" not in shown.text
    assert "&lt;b&gt;Bright&lt;/b&gt; &amp; &#34;Energy&#34;" in shown.text


async def test_a_person_confirms_and_leaves_with_the_buttons(world: World, page: Page) -> None:
    _, subscription_id, confirm, unsubscribe = await subscribed(world)
    transport = httpx.ASGITransport(app_of(world))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:

        async def answer(route: object) -> None:
            request = route.request  # type: ignore[attr-defined]
            response = await client.request(request.method, request.url, content=request.post_data)
            await route.fulfill(  # type: ignore[attr-defined]
                status=response.status_code, headers=dict(response.headers), body=response.content
            )

        await page.route("**/*", answer)
        await page.goto(ORIGIN + confirm)
        await page.get_by_role("button", name="Yes, send them to me").click()
        await page.get_by_role("heading", name="You get these mails").wait_for()
        assert await status_of(world, subscription_id) == "ACTIVE"
        await page.goto(ORIGIN + unsubscribe)
        await page.get_by_role("button", name="Unsubscribe").click()
        await page.get_by_role("heading", name="You get no more of these mails").wait_for()
    assert await status_of(world, subscription_id) == "UNSUBSCRIBED"
