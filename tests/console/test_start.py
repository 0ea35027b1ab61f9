"""The start page, as a browser shows it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, Route, expect

from app.cli.client import Address, Api
from app.events.catalogue import catalogue
from app.schema import schema_text
from tests.operators import fresh_key
from tests.services.patience import PATIENCE
from tests.system.deployment import Deployment, deployed

SHOWN_WITHIN = PATIENCE * 1000


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(["serve"], tmp_path_factory.mktemp("start")) as running:
        yield running


@pytest.fixture
async def api(served: Deployment) -> AsyncIterator[Api]:
    async with Api(Address.parse(served.apis[0].url), await fresh_key(served)) as client:
        yield client


@pytest.fixture
async def http(served: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.apis[0].url, trust_env=False, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """The browser's complaints: scripts that failed, and violations of the page's policy."""
    page.set_default_timeout(SHOWN_WITHIN)
    expect.set_options(timeout=SHOWN_WITHIN)
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    return found


async def test_the_page_runs_our_scripts_alone_and_loads_nothing_foreign(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.status_code == 200
    assert page.headers["content-security-policy"] == (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert page.headers["referrer-policy"] == "no-referrer"
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert {one for one in links if not one.startswith("#")} == {
        "/schema.graphql",
        "/static/icon.svg",
        "/static/start.css",
        "/static/start.js",
        "/static/voltwire.css",
    }
    for link in links:
        assert (await http.get(link.partition("#")[0] or "/")).status_code == 200


async def test_a_browser_sees_a_page_where_there_is_nothing_and_a_program_json(
    http: httpx.AsyncClient,
) -> None:
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    for path, status, title in (
        ("/nowhere", 404, "There is nothing here"),
        ("/static/nowhere.css", 404, "There is nothing here"),
        ("/readings", 405, "Nothing to see here"),
    ):
        message = {
            404: (
                "There is nothing at this path: GraphQL is at /graphql, bulk readings at /readings, files at /imports."
            ),
            405: "This path does not take the method: use POST.",
        }[status]
        shown = await http.get(path, headers=browser)
        assert shown.status_code == status
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert f"<h1>{title}</h1>" in shown.text
        assert '<a href="/">To the start page</a>' in shown.text
        assert shown.headers["content-security-policy"].startswith("default-src 'none'")
        told = await http.get(path)
        code = {404: "NOT_FOUND", 405: "INVALID"}[status]
        assert (told.status_code, told.json()) == (status, {"code": code, "message": message})
        assert shown.headers.get("allow") == told.headers.get("allow")


async def test_there_is_nothing_to_forget_before_a_key_is_given(
    page: Page, api: Api, complaints: list[str]
) -> None:
    await page.goto(api.address.base)
    forget = page.get_by_role("button", name="Forget")
    await expect(forget).to_be_hidden()
    await page.fill("#key", api.key)
    await page.press("#key", "Enter")
    await forget.click()
    await expect(forget).to_be_hidden()
    assert complaints == []


async def test_a_key_that_is_forgotten_while_it_is_checked_stays_forgotten(
    page: Page, api: Api, complaints: list[str]
) -> None:
    asked, forgotten = asyncio.Event(), asyncio.Event()
    keys: list[str | None] = []

    async def hold(route: Route) -> None:
        keys.append(await route.request.header_value("x-api-key"))
        answer = await route.fetch()
        asked.set()
        await forgotten.wait()
        await route.fulfill(response=answer)

    await page.route("**/graphql", hold)
    await page.goto(api.address.base)
    await page.fill("#key", api.key)
    await page.press("#key", "Enter")
    await asked.wait()
    await page.get_by_role("button", name="Forget").click()
    async with page.expect_response("**/graphql"):
        forgotten.set()
    await page.evaluate("new Promise((done) => setTimeout(done))")
    await expect(page.locator("#key-status")).to_have_text("Forgotten.")
    assert (keys, complaints) == ([api.key], [])


async def test_the_catalogue_is_there_without_a_script(page: Page, http: httpx.AsyncClient) -> None:
    await page.set_content((await http.get("/")).text)
    for one in catalogue():
        card = page.locator(f'[data-event="{one.type}"]')
        assert one.description in await card.inner_text()
        assert json.loads(await card.locator("pre").text_content() or "") == one.example
    assert await page.locator("[data-event]").count() == len(catalogue())


async def test_the_schema_is_served(http: httpx.AsyncClient) -> None:
    for accepted, encoding in (("identity", None), ("gzip", "gzip")):
        answer = await http.get("/schema.graphql", headers={"accept-encoding": accepted})
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers.get("content-encoding") == encoding
        assert (answer.headers["cache-control"], answer.headers["vary"]) == (
            "public, max-age=300",
            "Accept-Encoding",
        )
        assert answer.text == schema_text()


async def test_browsers_keep_the_pages_files_for_a_while_and_then_ask_whether_they_changed(
    http: httpx.AsyncClient,
) -> None:
    first = await http.get("/static/voltwire.css")
    assert first.headers["cache-control"] == "public, max-age=300"
    again = await http.get("/static/voltwire.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "public, max-age=300"
    missing = await http.get("/static/nothing.css")
    assert (missing.status_code, missing.headers.get("cache-control")) == (404, None)


@pytest.mark.parametrize("wanted", ["", "cus_01jdf3w8q2k7c9v5m1x0a4b6d8", '"><script>alert(1)</script>'])
async def test_an_invalid_event_id_is_not_shown(http: httpx.AsyncClient, wanted: str) -> None:
    page = await http.get("/", params={"event": wanted})
    assert page.text == (await http.get("/")).text


async def test_a_mutation_in_the_explorer_arrives_in_the_live_events(
    page: Page, api: Api, complaints: list[str]
) -> None:
    await page.goto(api.address.base)
    await page.fill("#key", api.key)
    await page.press("#key", "Enter")
    await expect(page.locator("#key-status")).to_have_text(
        "This key belongs to Bright Energy and may READ, WRITE, ADMIN."
    )
    await expect(page.locator("#live-status")).to_have_text("Connected.")
    await page.select_option("#example", label="Create a customer")
    await page.click("#run")
    await expect(page.locator("#run-status")).to_contain_text("HTTP 200")
    event = page.locator("#events li")
    await expect(event).to_have_count(1)
    await expect(event).to_contain_text("Customer created")
    await expect(event).to_contain_text("number 2")
    await page.select_option("#example", label="Meters with their customers")
    await page.press("#query", "Control+Enter")
    await expect(page.locator("#result")).to_contain_text('"meters"')
    assert complaints == []


async def test_the_key_stays_in_the_tab(page: Page, api: Api, complaints: list[str]) -> None:
    await page.goto(api.address.base)
    await page.fill("#key", api.key)
    await page.click("text=Use")
    await expect(page.locator("#live-status")).to_have_text("Connected.")
    assert await page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]
    await page.reload()
    await expect(page.locator("#live-status")).to_have_text("Connected.")
    await page.click("text=Forget")
    assert await page.evaluate("sessionStorage.length") == 0
    await page.reload()
    await expect(page.locator("#live-status")).to_have_text("Not connected.")
    assert complaints == []


async def test_a_wrong_key_is_told(page: Page, served: Deployment) -> None:
    await page.goto(served.apis[0].url)
    await page.fill("#key", "vw_live_wrong")
    await page.press("#key", "Enter")
    await expect(page.locator("#key-status")).to_contain_text("wrong, expired or revoked")
    await expect(page.locator("#live-status")).to_have_text("Not connected.")


async def test_variables_that_are_no_json_are_told(page: Page, served: Deployment) -> None:
    await page.goto(served.apis[0].url)
    await page.click("summary:has-text('Variables')")
    await page.fill("#variables", "{")
    await page.click("#run")
    await expect(page.locator("#run-status")).to_contain_text("The variables are not JSON")


async def test_a_refused_mutation_is_told(page: Page, api: Api, complaints: list[str]) -> None:
    await page.goto(api.address.base)
    await page.fill("#key", api.key)
    await page.press("#key", "Enter")
    await page.select_option("#example", label="Create a customer")
    await page.fill("#variables", '{"input": {"name": "", "email": "ann@example.com"}}')
    await page.click("#run")
    await expect(page.locator("#run-status")).to_contain_text("Refused, and nothing changed")
    assert complaints == []


async def test_the_link_of_a_mail_shows_its_event(page: Page, api: Api, complaints: list[str]) -> None:
    await api.change("createCustomer", "customer { id }", name="Ann <b>Example</b>", email="ann@example.com")
    (event,) = (await api.ask("{ events(last: 1) { nodes { id } } }"))["events"]["nodes"]
    await page.goto(f"{api.address.base}/?event={event['id']}")
    await expect(page.locator("#event-status")).to_contain_text("give an API key of its account")
    await page.fill("#key", api.key)
    await page.press("#key", "Enter")
    await expect(page.locator("#event-title")).to_have_text("Customer created")
    await expect(page.locator("#event-facts")).to_contain_text("Ann <b>Example</b>")
    await expect(page.locator("#event-facts")).to_contain_text("customer.created, number 2")
    assert complaints == []


async def test_an_event_of_another_account_is_not_there(page: Page, served: Deployment, api: Api) -> None:
    (event,) = (await api.ask("{ events(last: 1) { nodes { id } } }"))["events"]["nodes"]
    await page.goto(f"{api.address.base}/?event={event['id']}")
    await page.fill("#key", await fresh_key(served))
    await page.press("#key", "Enter")
    await expect(page.locator("#event-status")).to_contain_text("is not in this key's account")


async def test_live_events_go_on_after_the_server_came_back(page: Page, tmp_path: Path) -> None:
    async with (
        deployed(["serve"], tmp_path) as served,
        Api(Address.parse(served.apis[0].url), await fresh_key(served)) as api,
    ):
        await page.goto(api.address.base)
        await page.fill("#key", api.key)
        await page.press("#key", "Enter")
        await expect(page.locator("#live-status")).to_have_text("Connected.", timeout=SHOWN_WITHIN)
        served.apis[0].kill()
        await expect(page.locator("#live-status")).to_contain_text("Connection lost", timeout=SHOWN_WITHIN)
        served.apis[0].start()
        for name in ("a", "b"):
            await api.change("createCustomer", "customer { id }", name=name, email=f"{name}@example.com")
        await expect(page.locator("#events li")).to_have_count(2, timeout=SHOWN_WITHIN)
        assert await page.locator("#events .number").all_inner_texts() == ["number 3", "number 2"]
        await page.goto("about:blank")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nothing_is_cut_off_on_a_phone(page: Page, served: Deployment, scheme: str) -> None:
    await page.set_viewport_size({"width": 320, "height": 640})
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.goto(served.apis[0].url)
    await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    unlabelled = (
        "[...document.querySelectorAll('input, select, textarea')].filter((one) => !one.labels.length).length"
    )
    assert await page.evaluate(unlabelled) == 0
