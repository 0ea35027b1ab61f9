"""The consent page as a browser without scripts sees it."""

import re

import pytest

from app.accounts.models import Account
from app.consents.pages import return_url
from app.consents.terms import PAGE_VERSION, uk_time_words
from app.core import clock
from app.web.render import source
from tests.consents.helpers import (
    BLANKET,
    ELECTRICITY,
    GAS,
    ask_for_consent,
    in_a_year,
)
from tests.consents.web import hidden, path, text_of, visitor
from tests.support import World


async def test_the_page_says_who_asks_for_what_until_when(world: World) -> None:
    asked = await ask_for_consent(world, description="A <b>new</b> tariff", meter_numbers=[ELECTRICITY, GAS])
    before = (await asked.stored()).model_dump()
    async with visitor(world) as client:
        page = await client.get(path(asked))
    assert page.status_code == 200
    said = text_of(page.text)
    for words in (
        "Bright Energy asks to collect your meter data",
        "Whose data Ada Lovelace",
        "What for A <b>new</b> tariff",
        f"{ELECTRICITY} (electricity)",
        f"{GAS} (gas)",
        f"The end of {clock.long_date(in_a_year())}",
        "To withdraw Write to privacy@localhost",
        f"by the meters with these numbers: {ELECTRICITY}, {GAS}.",
        "Full name",
        "I do not agree",
        f"Page version {PAGE_VERSION}",
    ):
        assert words in said, words
    assert hidden(page.text) == {"action": "code", "pageVersion": PAGE_VERSION}
    assert 'name="meterNumbers"' not in page.text
    assert (await asked.stored()).model_dump() == before


async def test_the_page_is_private_and_runs_nothing(world: World) -> None:
    asked = await ask_for_consent(world, redirect_url="https://bright.example:8443/done;x?y=1")
    async with visitor(world) as client:
        page = await client.get(path(asked))
        head = await client.head(path(asked))
        style = await client.get("/static/voltwire.css")
    assert page.headers["content-security-policy"] == (
        "default-src 'none'; style-src 'self'; form-action 'self' https://bright.example:8443; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert "set-cookie" not in page.headers
    assert (head.status_code, head.headers) == (200, page.headers)
    assert re.findall(r'(?:src|href)="(/static[^"]*|[a-z]+:[^"]*)"', page.text) == [
        "/static/voltwire.css",
        "mailto:privacy@localhost",
    ]
    assert not re.search(r"<script|<img|style=|onclick", page.text)
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")


@pytest.mark.parametrize(
    ("logo", "allowed"),
    [
        ("https://bright.example/logo;1, a.png?size=2", "https://bright.example/logo%3B1%2C%20a.png"),
        ("https://b\u00fccher.example:8443", "https://xn--bcher-kva.example:8443/"),
        # A policy cannot name this host alone, so the page loads no image at all.
        ("https://[2001:db8::1]/logo.png", None),
    ],
)
async def test_the_page_shows_the_logo_of_who_asks_and_no_other_image(
    world: World, logo: str, allowed: str | None
) -> None:
    asked = await ask_for_consent(world)
    async with world.database.transaction() as session:
        (await session.get_one(Account, asked.account_id)).logo_url = logo
    async with visitor(world) as client:
        page = await client.get(path(asked))
    policy = page.headers["content-security-policy"].split("; ")
    assert [one for one in policy if one.startswith("img-src")] == ([f"img-src {allowed}"] if allowed else [])
    assert re.findall(r'<img class="logo" src="([^"]*)" alt="">', page.text) == ([logo] if allowed else [])


async def test_only_what_holds_can_be_withdrawn(world: World) -> None:
    async with visitor(world) as client:
        asked = await ask_for_consent(world)
        await asked.decline()
        assert "To withdraw" not in text_of((await client.get(path(asked))).text)
        asked = await ask_for_consent(world)
        await asked.approve()
        assert "To withdraw" in text_of((await client.get(path(asked))).text)
        await asked.revoke()
        assert "To withdraw" not in text_of((await client.get(path(asked))).text)


async def test_a_revoked_consent_shows_that(world: World) -> None:
    asked = await ask_for_consent(world, flow_type=BLANKET, meter_numbers=None)
    await asked.approve()
    await asked.revoke("internal words")
    async with visitor(world) as client:
        page = await client.get(path(asked))
        record = await client.get(f"{path(asked)}/evidence")
    consent = await asked.stored()
    assert consent.revoked_at is not None
    assert f"and withdrawn on {uk_time_words(consent.revoked_at)}." in text_of(page.text)
    assert "internal words" not in page.text
    assert record.status_code == 200


async def test_unknown_and_expired_links(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    await asked.expire()
    async with visitor(world) as client:
        for method, where, status, title in (
            ("GET", "/consents/vw_consent_no", 404, "There is no such request"),
            ("POST", "/consents/vw_consent_no", 404, "There is no such request"),
            ("GET", "/consents/vw_consent_no/evidence", 404, "There is no such request"),
            ("GET", path(asked), 410, "This request has expired"),
            ("POST", path(asked), 410, "This request has expired"),
            ("GET", f"{path(asked)}/evidence", 410, "This request has expired"),
        ):
            data = {"action": "decline"} if method == "POST" else None
            page = await client.request(method, where, data=data)
            assert (page.status_code, title in page.text) == (status, True)
            assert page.headers["referrer-policy"] == "no-referrer"
            assert "Bright Energy" not in page.text


async def test_other_methods_are_not_allowed(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        for method in ("PUT", "DELETE", "PATCH"):
            answer = await client.request(method, path(asked))
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


async def test_too_many_visits_wait(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world, rate=1) as client:
        assert (await client.get(path(asked))).status_code == 200
        busy = await client.get(path(asked))
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "5")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", "https://a.example?hosted_consent_id=hc_1&status=approved"),
        (
            "https://a.example/p?x=1&y=%20#f",
            "https://a.example/p?x=1&y=%20&hosted_consent_id=hc_1&status=approved#f",
        ),
        (
            "https://a.example/ä?q=ö",
            "https://a.example/%C3%A4?q=%C3%B6&hosted_consent_id=hc_1&status=approved",
        ),
        ("http://[::1]:3000/", "http://[::1]:3000/?hosted_consent_id=hc_1&status=approved"),
    ],
)
async def test_the_way_back(world: World, url: str, expected: str) -> None:
    asked = await ask_for_consent(world, redirect_url=url)
    asked.consent.id = "hc_1"
    assert return_url(asked.consent, "approved") == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/p", "https://a.example"),
        ("https://A.example:8443", "https://a.example:8443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[::1]:3000", "http:"),
        ("https://a;script-src", "https:"),
        ("https://a,b.example", "https:"),
        ("https://" + "ä" * 70 + ".example", "https:"),
    ],
)
def test_the_policy_names_where_forms_lead(url: str, expected: str) -> None:
    assert source(url) == expected


def test_dates_in_words() -> None:
    at = clock.parse_utc("2026-07-24T22:29:55.123Z")
    assert (clock.long_date(at.date()), uk_time_words(at)) == (
        "24 July 2026",
        "24 July 2026, 23:29 (UK time)",
    )
