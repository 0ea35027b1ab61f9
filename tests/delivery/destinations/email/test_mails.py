"""Mails about each type of event, as people read them: as text, as HTML and as a file that a mail program opens."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser
from sqlalchemy import delete, update

from app.accounts.models import Account, User
from app.auth.api_keys import ApiKey
from app.consents.models import HostedConsent
from app.customers import actions as customers
from app.customers.models import Customer
from app.events.catalogue import event_names
from app.meters.models import Meter
from app.outbound.mail import rendering
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.rendering import Mail
from app.server.wording import WORDING
from tests.consents.helpers import BLANKET, ELECTRICITY
from tests.delivery.asking import make_subscription, outgoing_mails
from tests.delivery.story import Story
from tests.feeds.feeding import REFUSED
from tests.support import World

NOW = re.compile(r"\d{1,2} [A-Z][a-z]+ \d{4}, \d{2}:\d{2} (GMT|BST)")
HOSTILE = 'Ada\r\nBcc: all@example.com\r\n\r\n<script>alert("1")</script>\u202e & Söhne'
HARMLESS = 'Ada Bcc: all@example.com <script>alert("1")</script> & Söhne'


class Links(HTMLParser):
    """The links of a mail's HTML, the resources that it loads, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "href":
                self.links.append(value or "")
            if name in ("src", "srcset", "background", "poster", "data"):
                self.loads.append(value or "")


def facts(mail: Mail) -> dict[str, str]:
    """The rows of the text, their lines joined."""
    part = mail.text.split("\n\n")[1]
    rows: dict[str, str] = {}
    label = ""
    for line in part.splitlines():
        if line[:16].strip():
            label = line[:16].strip().rstrip(":")
        rows[label] = f"{rows.get(label, '')} {line[16:].strip()}".strip()
    return rows


def timeless(mail: Mail) -> dict[str, str]:
    """The rows with what depends on the time of the test replaced."""
    return {label: NOW.sub("then", value) for label, value in facts(mail).items()}


async def gone(world: World, model: Any) -> None:
    async with world.database.transaction() as session:
        await session.execute(delete(model))


async def test_each_event_has_a_subject_that_says_it_all(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    expiry = rendering.uk_day(story.asked.consent.expiry.isoformat())
    assert {kind: (await story.mail(kind)).subject for kind in event_names()} == {
        "meter_data.received": "Data arrived for meter 1312345678907 of Ada Lovelace: 48 half-hours",
        "meter.created": "New meter 1312345678907 of Ada Lovelace",
        "user.created": "New user: owner1 (admin)",
        "customer.created": "New customer: Ada Lovelace",
        "api_keys.rotated": "API key “First key” has a new secret",
        "hosted_consent.approved": f"Ada Lovelace approved access to 1 meter until {expiry}",
        "hosted_consent.revoked": "Consent of Ada Lovelace revoked: no more new data for 1 meter",
        "backfill.completed": "The history of meter 1312345678907 is here, and complete",
        "import.completed": "The import of may.csv is complete: 1 meter",
        "feed.attention_needed": "A feed needs a person: Homes",
        "hosted_consent.declined": "Ada Lovelace declined the consent request",
        "meter_data.overdue": "No data for five days from meter 1312345678907 of Ada Lovelace",
        "hosted_consent.expired": "Consent of Ada Lovelace expired: ask for a new one for 1 meter",
        "webhook_endpoint.disabled": "Webhooks to gone.example stopped: their endpoint was disabled",
    }


async def test_each_event_tells_its_facts(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    expiry = rendering.uk_day(story.asked.consent.expiry.isoformat())
    rotated = (await story.event("api_keys.rotated")).data
    yesterday = rendering.uk_day((await story.event("hosted_consent.expired")).data["expiry"])
    rows = (await story.event("import.completed")).data
    ailing = (await story.event("feed.attention_needed")).data
    told = {kind: timeless(await story.mail(kind)) for kind in event_names()}
    assert told == {
        "meter_data.received": {
            "Meter": "1312345678907 (electricity)",
            "Customer": "Ada Lovelace",
            "From": "then",
            "To": "then",
            "Half-hours": "48",
            "When": "then",
        },
        "meter.created": {
            "Meter": "1312345678907 (electricity)",
            "Customer": "Ada Lovelace",
            "When": "then",
        },
        "user.created": {
            "User": "owner1",
            "Email": "owner1@example.com",
            "Role": "admin",
            "When": "then",
        },
        "customer.created": {"Customer": "Ada Lovelace", "Email": "ada@example.com", "When": "then"},
        "api_keys.rotated": {
            "API key": "First key",
            "New secret": f"begins with {rotated['prefix']}",
            "Old secret": f"{rotated['previousPrefix']}…, works until then",
            "When": "then",
        },
        "hosted_consent.approved": {
            "Customer": "Ada Lovelace",
            "Meters": ELECTRICITY,
            "Consent": "Residential, for these meters",
            "Given by": "Ada Lovelace",
            "Valid until": f"the end of {expiry} (UK)",
            "When": "then",
        },
        "hosted_consent.revoked": {
            "Customer": "Ada Lovelace",
            "Meters": ELECTRICITY,
            "Consent": "Residential, for these meters",
            "Reason": "Ada moved out.",
            "Given": "then",
            "When": "then",
        },
        "import.completed": {
            "Import": rows["fileImportId"],
            "Status": "Completed",
            "Meters": "1",
            "Half-hours": "48",
            "New or changed": "48",
            "When": "then",
        },
        "backfill.completed": {
            "Meter": "1312345678907",
            "Customer": "Ada Lovelace",
            "From": "then",
            "To": "then",
            "New or changed": "2,926 half-hours",
            "Missing": "0 half-hours",
            "When": "then",
        },
        "feed.attention_needed": {
            "Feed": "Homes",
            "Kind": "OCTOPUS",
            "Id": ailing["feedId"],
            "What to do": REFUSED,
            "When": "then",
        },
        "hosted_consent.declined": {
            "Customer": "Ada Lovelace",
            "Consent": "Residential, for these meters",
            "Reason": "Ada is content.",
            "When": "then",
        },
        "meter_data.overdue": {
            "Meter": "1312345678907 (electricity)",
            "Customer": "Ada Lovelace",
            "Channel": "Import",
            "Latest reading": "then",
            "When": "then",
        },
        "hosted_consent.expired": {
            "Customer": "Ada Lovelace",
            "Meters": ELECTRICITY,
            "Consent": "Residential, for these meters",
            "Last day": f"{yesterday} (UK)",
            "Given": "then",
            "When": "then",
        },
        "webhook_endpoint.disabled": {
            "Endpoint": "gone.example",
            "Id": (await story.event("webhook_endpoint.disabled")).subject_id,
            "Why": "The receiver answered 410.",
            "When": "then",
        },
    }


async def test_times_are_those_of_the_uk(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    rows = facts(await story.mail("meter_data.received"))
    assert (rows["From"], rows["To"]) == ("30 June 2026, 01:00 BST", "1 July 2026, 01:00 BST")
    event = await story.event("meter_data.received")
    assert rows["When"] == rendering.uk_time(event.occurred_at)
    assert rendering.uk_time(datetime(2026, 11, 24, 22, 29, tzinfo=UTC)) == "24 November 2026, 22:29 GMT"
    assert rendering.uk_time(datetime(2026, 10, 25, 0, 30, tzinfo=UTC)) == "25 October 2026, 01:30 BST"
    assert rendering.uk_time(datetime(2026, 10, 25, 1, 30, tzinfo=UTC)) == "25 October 2026, 01:30 GMT"


async def test_the_text_fits_a_terminal(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    async with world.database.transaction() as session:
        await session.execute(update(Customer).values(name="Ada " * 49 + "Ada"))
        await session.execute(update(Meter).values(description="x" * 300))
    for kind in event_names():
        mail = await story.mail(kind)
        lines = mail.text.splitlines()
        links = [f"Unsubscribe: {story.unsubscribe_url}"]
        assert f"Event {(await story.event(kind)).id} (number " in mail.text
        assert all(link in lines for link in links)
        assert [line for line in lines if len(line) > 72 and line not in links] == []
        assert len(mail.subject) <= rendering.MAX_SUBJECT


async def test_the_html_loads_nothing_and_links_to_the_way_out_alone(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    for kind in event_names():
        mail, event = await story.mail(kind), await story.event(kind)
        found = Links(mail.html)
        assert found.links == [story.unsubscribe_url]
        assert f"Event {event.id} (number {event.sequence})" in mail.html
        assert found.loads == []
        assert not found.tags & {"img", "script", "link", "iframe", "form"}
        assert "url(" not in mail.html
        assert "@import" not in mail.html


async def test_footers_say_why_one_gets_it(world: World) -> None:
    story = await Story.of(world)
    mail, event = await story.mail("meter.created"), await story.event("meter.created")
    why = "You get this because grace@example.com is subscribed to events of Bright Energy on Voltwire."
    assert why in " ".join(mail.text.split())
    assert why in mail.html
    for body in (mail.text, mail.html):
        assert f"Event {event.id} (number 3)" in body


async def test_a_mail_opens_in_a_mail_program(world: World, tmp_path: Path) -> None:
    story = await Story.of(world)
    await story.go_on()
    mail = await story.mail("meter_data.received")
    message = await story.eml(mail, tmp_path)
    assert message["Subject"] == mail.subject
    assert message["To"] == "grace@example.com"
    assert message["List-Unsubscribe"] == f"<{story.unsubscribe_url}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    text, html = (str(part.get_content()).replace("\r\n", "\n") for part in message.iter_parts())
    assert text.strip() == mail.text.strip()
    assert html.strip() == mail.html.strip()


async def test_nobodys_name_breaks_out_of_its_place(world: World, tmp_path: Path) -> None:
    story = await Story.of(world)
    async with world.database.transaction() as session:
        await session.execute(update(Customer).values(name=HOSTILE))
        await session.execute(update(Account).values(name=HOSTILE))
    mail = await story.mail("customer.created")
    assert mail.subject == f"New customer: {HARMLESS}"
    assert timeless(mail) == {"Customer": HARMLESS, "Email": "ada@example.com", "When": "then"}
    assert "script" not in Links(mail.html).tags
    message = await story.eml(mail, tmp_path)
    assert message["Bcc"] is None
    # The standard library's folding may add a space before an encoded word.
    assert " ".join(message["Subject"].split()) == mail.subject
    assert message.get_all("To") == ["grace@example.com"]


async def test_names_are_as_of_now_and_what_is_gone_is_said_to_be(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    async with world.database.transaction() as session:
        await session.execute(update(Customer).values(name="Ada King"))
    assert (await story.mail("meter.created")).subject == "New meter 1312345678907 of Ada King"
    await gone(world, Meter)
    assert (await story.mail("meter.created")).subject == "New meter [deleted] of Ada King"
    assert timeless(await story.mail("meter_data.received"))["Meter"] == "[deleted]"
    await gone(world, User)
    await gone(world, ApiKey)
    user, key = await story.mail("user.created"), await story.mail("api_keys.rotated")
    assert (user.subject, timeless(user)) == (
        "New user, deleted since",
        {"User": "[deleted]", "When": "then"},
    )
    assert key.subject == "API key “[deleted]” has a new secret"


async def test_a_deleted_customer_is_named_in_no_mail(world: World) -> None:
    story = await Story.of(world)
    await story.go_on()
    async with world.database.transaction() as session:
        await customers.delete(
            session,
            story.asked.actor,
            world.services.keyring,
            story.asked.customer.id,
            MailFiles(world.services.settings.mail_folder),
        )
    for kind in event_names():
        mail = await story.mail(kind)
        for part in (mail.subject, mail.text, mail.html):
            assert "Ada" not in part
            assert "ada@" not in part
            assert ELECTRICITY not in part
    approved = await story.mail("hosted_consent.approved")
    assert timeless(approved)["Given by"] == "[deleted]"
    assert timeless(approved)["Meters"] == "1 meter"
    assert (await story.mail("customer.created")).subject == "New customer, deleted since"


async def test_another_accounts_names_never_appear(world: World) -> None:
    story, other = await Story.of(world), await Story.of(world)
    event = await story.event("meter.created")
    event.account_id = other.account.id
    mail = await story.mail_about(event)
    assert mail.subject == "New meter [deleted] of [deleted]"


async def test_many_meters_are_counted_and_not_all_listed(world: World) -> None:
    story = await Story.of(world, flow_type=BLANKET, meter_numbers=None)
    event = await story.event("hosted_consent.approved")
    numbers = [str(9_000_000_000_000 + one) for one in range(1234)]
    event.data = {**event.data, "meterNumbers": numbers, "meterIds": [f"mtr_{one}" for one in numbers]}
    mail = await story.mail_about(event)
    assert mail.subject.startswith("Ada Lovelace approved access to 1,234 meters until ")
    assert facts(mail)["Meters"] == f"{', '.join(numbers[:10])} and 1,224 more"
    assert facts(mail)["Consent"] == "Commercial, for all meters of the customer"


async def test_the_confirmation_holds_no_text_of_the_accounts_making(world: World) -> None:
    account = await world.account("Bright Energy\r\nLtd")
    await make_subscription(
        world, account, description="Buy cheap watches", eventTypes=["meter.*", "user.created"]
    )
    [(recipient, mail)] = await outgoing_mails(world)
    assert recipient == "grace@example.com"
    assert mail["subject"] == "Confirm: mails about events of Bright Energy Ltd"
    text = " ".join(mail["text"].split())
    assert "Bright Energy Ltd wants to send mails about its events on Voltwire to grace@example.com." in text
    assert "About: Meter created, User created." in text
    assert "cheap watches" not in mail["text"] + mail["html"]
    links = Links(mail["html"]).links
    assert ["/confirm/" in link for link in links] == [True, False]
    assert [line for line in mail["text"].splitlines() if len(line) > 72] == links


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_mail_fits_a_phone_in_light_and_dark(world: World, browser: Browser, scheme: Any) -> None:
    story = await Story.of(world)
    async with world.database.transaction() as session:
        await session.execute(update(Customer).values(name="A" * 190))
        await session.execute(update(HostedConsent).values(description="b" * 190))
    context = await browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = await context.new_page()
    await page.set_content((await story.mail("meter.created")).html)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    ink, paper = await page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('.card')).backgroundColor]"
    )
    assert (ink, paper) == {
        "light": ("rgb(22, 32, 43)", "rgb(255, 255, 255)"),
        "dark": ("rgb(232, 237, 242)", "rgb(26, 33, 41)"),
    }[scheme]
    await context.close()


async def test_every_type_of_event_has_its_wording() -> None:
    assert set(WORDING) == set(event_names())


async def test_a_single_half_hour_is_no_plural() -> None:
    assert rendering.count(1, "half-hour") == "1 half-hour"
    assert rendering.count(17_568, "half-hour") == "17,568 half-hours"
