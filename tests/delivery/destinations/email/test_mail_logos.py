"""The account's logo, which only mails to confirmed addresses show."""

import base64
from typing import Any

import pytest
from playwright.async_api import Browser, Route
from sqlalchemy import update

from app.accounts.models import Account
from app.delivery.destinations.email import mails
from app.outbound.mail.rendering import Mail
from app.server.wording import WORDING
from tests.accounts.state import mutation
from tests.consents.helpers import ask_for_consent
from tests.consents.web import ENTERED, post, visitor
from tests.delivery.asking import make_subscription, outgoing_mails
from tests.delivery.destinations.email.test_mails import Links
from tests.delivery.story import Story
from tests.meters.asking import run
from tests.support import TestAccount, World

LOGO = 'https://bright.example/logo.svg?size=2&name="x"'
DRAWN = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    '<rect width="100%" height="100%"/></svg>'
)


async def with_logo(world: World, logo: str | None, name: str = "Bright & Sons") -> Story:
    story = await Story.of(world)
    async with world.database.transaction() as session:
        await session.execute(update(Account).values(logo_url=logo, name=name))
    return story


async def digest(story: Story) -> Mail:
    async with story.world.database.reading() as session:
        events = [await story.event("customer.created"), await story.event("meter.created")]
        return await mails.digest_mail(session, WORDING, story.subscription, events, story.unsubscribe_url)


async def test_mails_about_events_show_the_logo(world: World) -> None:
    story = await with_logo(world, LOGO)
    for mail in (await story.mail("meter.created"), await digest(story)):
        assert Links(mail.html).loads == [LOGO]
        assert 'alt="Bright &amp; Sons" height="40"' in mail.html
        assert LOGO not in mail.text


@pytest.mark.parametrize(
    "logo", [None, "", "http://bright.example/logo.png", "javascript:alert(1)", "data:image/png;base64,AA=="]
)
async def test_nothing_is_loaded_but_by_https(world: World, logo: str | None) -> None:
    story = await with_logo(world, logo)
    for mail in (await story.mail("meter.created"), await digest(story)):
        assert Links(mail.html).loads == []
        assert "<img" not in mail.html


async def test_an_address_that_has_not_confirmed_sees_no_logo(world: World) -> None:
    asked = await ask_for_consent(world)
    async with world.database.transaction() as session:
        await session.execute(update(Account).values(logo_url=LOGO))
    account = TestAccount(asked.account_id, "", asked.key)
    await make_subscription(world, account)
    created = mutation("createUser", "user { id }")
    await run(world, account, created, email="lin@example.com", name="Lin", role="MEMBER")
    async with visitor(world) as client:
        await post(client, asked, "code", **ENTERED)
    sent = dict(await outgoing_mails(world))
    assert sent.keys() == {"grace@example.com", "lin@example.com", "ada@example.com"}
    for mail in sent.values():
        assert Links(mail["html"]).loads == []
        assert "bright.example" not in mail["html"] + mail["text"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (4000, 40), (40, 4000)])
async def test_a_logo_of_any_size_fits_a_phone(
    world: World, browser: Browser, scheme: Any, width: int, height: int
) -> None:
    story = await with_logo(world, "https://bright.example/logo.svg")
    context = await browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = await context.new_page()

    async def draw(route: Route) -> None:
        await route.fulfill(content_type="image/svg+xml", body=DRAWN.format(width=width, height=height))

    await page.route("https://bright.example/logo.svg", draw)
    html = base64.b64encode((await digest(story)).html.encode()).decode()
    await page.goto(f"data:text/html;base64,{html}")
    # 40 pixels high, and no wider than the card; in the dark on a white sheet of its own.
    size = await page.evaluate("[document.images[0].naturalWidth > 0, document.images[0].clientHeight]")
    assert size == [True, {"light": 40, "dark": 52}[scheme]]
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    await context.close()
