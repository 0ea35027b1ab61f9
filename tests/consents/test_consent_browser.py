"""The consent page in a real browser with scripts switched off, from the link to the redirect."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from app.db.database import run_script
from app.meters import actions as meters
from tests.consents.helpers import BLANKET, ELECTRICITY, GAS, ask_for_consent, event_names, last_code
from tests.consents.web import serving
from tests.services.receiver import Answer, Receiver
from tests.support import World

# The number of lines over which each number of nine digits or more is spread.
LINES_OF_NUMBERS = """
() => {
  const lines = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode())
    for (const found of text.data.matchAll(/\\b\\d{9,}\\b/g)) {
      const range = document.createRange();
      range.setStart(text, found.index);
      range.setEnd(text, found.index + found[0].length);
      lines.push(range.getClientRects().length);
    }
  return lines;
}
"""
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
HTML = {"content-type": "text/html"}


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
async def plain(request: pytest.FixtureRequest, browser: Browser) -> AsyncIterator[Page]:
    """A page that runs no scripts."""
    context = await browser.new_context(java_script_enabled=False, viewport=request.param)
    yield await context.new_page()
    await context.close()


@pytest.fixture
def bright(receiver: Receiver) -> Receiver:
    """The site that the page redirects to."""
    receiver.default = Answer(200, HTML, b"<title>Bright</title><h1>Welcome back</h1>")
    return receiver


async def test_from_the_link_to_the_decision_and_back(world: World, plain: Page, bright: Receiver) -> None:
    asked = await ask_for_consent(
        world,
        redirect_url=bright.url("/done?ref=7"),
        meter_numbers=None,
        description="Half-hourly data, to offer you a tariff that fits how you use energy",
    )
    seen = _watch(plain)
    async with serving(world) as url:
        await plain.goto(f"{url}/consents/{asked.token}")
        await expect(plain.get_by_role("heading", level=1)).to_have_text(
            "Bright Energy asks to collect your meter data"
        )
        await _fits(plain)
        await plain.get_by_label("Full name").fill("Ada Lovelace")
        await plain.get_by_label("Email address").fill("ada")
        await plain.get_by_label("Meter numbers").fill(f"{ELECTRICITY}\n12")
        await plain.get_by_role("button", name="Send me a code").press("Enter")
        problems = plain.get_by_role("alert").get_by_role("listitem")
        await expect(problems).to_have_text(
            [
                "Enter an email address such as ada@example.com.",
                "“12”: A meter number has 13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 2.",
            ]
        )
        await expect(plain.get_by_label("Email address")).to_have_accessible_description(
            "We send a code to this address to make sure that it is yours. "
            "Enter an email address such as ada@example.com."
        )
        await _fits(plain)
        await plain.get_by_label("Email address").fill("ada@example.com")
        await plain.get_by_label("Meter numbers").fill(f"{ELECTRICITY}\n{GAS}")
        # The keyboard alone sends the form from a field, and the code from its own.
        await plain.get_by_label("Job title or role (optional)").press("Enter")
        await expect(plain.get_by_role("textbox", name="Code")).to_be_visible()
        assert plain.url == f"{url}/consents/{asked.token}#code"
        await _fits(plain)
        code = await last_code(world)
        await plain.get_by_role("textbox", name="Code").fill(f"{(int(code) + 1) % 1_000_000:06}")
        await plain.get_by_role("textbox", name="Code").press("Enter")
        await expect(plain.get_by_role("textbox", name="Code")).to_have_accessible_description(
            "This is not the code we sent. You can try 4 more times."
        )
        await plain.get_by_role("textbox", name="Code").fill(code)
        await plain.get_by_role("button", name="I agree", exact=True).click()
        await expect(plain.get_by_role("heading", level=1)).to_have_text("Welcome back")
        assert plain.url == bright.url(f"/done?ref=7&hosted_consent_id={asked.consent.id}&status=approved")
        await plain.goto(f"{url}/consents/{asked.token}")
        await expect(plain.get_by_text("Approved on")).to_be_visible()
        await _fits(plain)
        async with plain.expect_download() as download:
            await plain.get_by_role("link", name="Download the record of this consent").click()
        kept = await download.value
        assert kept.suggested_filename == f"consent-{asked.consent.id}.html"
    (arrival,) = [one for one in bright.requests if one.path == "/done"]
    assert "referer" not in arrival.headers
    assert "cookie" not in arrival.headers
    assert seen == {"elsewhere": [], "console": []}
    assert (await asked.stored()).consentee_email_verified is True
    assert await event_names(world, asked.account_id) == [
        "customer.created",
        "meter.created",
        "meter.created",
        "hosted_consent.approved",
    ]


async def test_declining_leads_back_as_well(world: World, plain: Page, bright: Receiver) -> None:
    asked = await ask_for_consent(world, redirect_url=bright.url("/done"))
    async with serving(world) as url:
        await plain.goto(f"{url}/consents/{asked.token}")
        await plain.get_by_label("Reason (optional)").fill("Not now")
        await plain.get_by_role("button", name="I do not agree").click()
        await expect(plain.get_by_role("heading", level=1)).to_have_text("Welcome back")
    assert plain.url == bright.url(f"/done?hosted_consent_id={asked.consent.id}&status=declined")
    assert (await asked.stored()).decline_reason == "Not now"


async def test_the_record_is_whole_on_a_phone_in_the_dark(world: World, browser: Browser) -> None:
    asked = await ask_for_consent(world, flow_type=BLANKET, meter_numbers=None)
    async with world.database.transaction() as session:
        for number in (ELECTRICITY, GAS, "2400000000013"):
            await run_script(
                session, meters.create(session, asked.actor, customer_id=asked.customer.id, number=number)
            )
    await asked.approve()
    context = await browser.new_context(viewport={"width": 320, "height": 640}, color_scheme="dark")
    record = await context.new_page()
    async with serving(world) as url, httpx.AsyncClient() as client:
        html = (await client.get(f"{url}/consents/{asked.token}/evidence")).text
    await record.set_content(html)
    await _fits(record)
    assert await record.evaluate(LINES_OF_NUMBERS) == [1, 1, 1]
    assert await record.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(26, 33, 41)"
    await context.close()


async def test_the_page_cannot_be_framed_elsewhere(world: World, page: Page, receiver: Receiver) -> None:
    asked = await ask_for_consent(world)
    async with serving(world) as url:
        frame = f'<iframe src="{url}/consents/{asked.token}"></iframe>'
        receiver.default = Answer(200, HTML, frame.encode())
        async with page.expect_console_message() as message:
            await page.goto(receiver.url("/"))
        assert "frame-ancestors" in (await message.value).text


def _watch(page: Page) -> dict[str, list[Any]]:
    """Collects the page's requests to other hosts and the browser's complaints."""
    seen: dict[str, list[Any]] = {"elsewhere": [], "console": []}
    page.on(
        "request",
        lambda one: None if one.url.startswith("http://127.0.0.1:") else seen["elsewhere"].append(one.url),
    )
    page.on(
        "console",
        # A form that is refused answers 422, which the browser notes as a failed load.
        lambda one: (
            None if "422" in one.text or "favicon" in str(one.location) else seen["console"].append(one.text)
        ),
    )
    return seen


async def _fits(page: Page) -> None:
    """Asserts that nothing has to be scrolled sideways."""
    sizes = await page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]
