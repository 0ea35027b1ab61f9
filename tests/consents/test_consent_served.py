"""The consent page on a real server: link from the API, code from a mailbox, event in the log."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from playwright.async_api import Browser, expect

from app.accounts import actions as accounts
from app.core.settings import Settings
from app.server.main import create_app
from app.server.process import Process
from tests.consents.helpers import ELECTRICITY, in_a_year
from tests.services.patience import PATIENCE
from tests.services.receiver import Answer, Receiver
from tests.services.smtp import SmtpSink
from tests.support import SECRET

CREATE_CUSTOMER = """mutation { createCustomer(input: {name: "Ada Lovelace", email: "ada@example.com"}) {
    customer { id } userErrors { message } } }"""
CREATE_CONSENT = """mutation ($input: CreateHostedConsentInput!) { createHostedConsent(input: $input) {
    hostedConsent { id link } userErrors { message } } }"""
STATE = """query ($id: ID!) {
    hostedConsent(id: $id) { status valid link consenteeFullName consenteeEmailVerified meters { nodes { status } } }
    hostedConsentEvidence(hostedConsentId: $id) { url sha256 }
    events { nodes { name } } }"""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[str, str]]:
    """Serves API and worker and yields the server's URL and an API key."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = Process(settings, public_url=url, with_worker=True)
        server = uvicorn.Server(
            uvicorn.Config(create_app(process), lifespan="on", log_config=None, access_log=False)
        )
        serving = asyncio.create_task(server._serve([listener]))
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
            # The listener accepts the connection at once; the answer comes when the program has started.
            assert (await client.get("/healthz")).status_code == 200
        async with process.services.database.transaction() as session:
            account = await accounts.create_account(session, name="Bright Energy", email="owner@example.com")
        try:
            yield url, account.secret
        finally:
            server.should_exit = True
            await serving


async def test_a_consent_from_the_api_to_the_log(
    migrated_url: str, tmp_path: Path, browser: Browser, smtp_sink: SmtpSink, receiver: Receiver
) -> None:
    receiver.default = Answer(200, {"content-type": "text/html"}, b"<h1>Welcome back</h1>")
    settings = Settings(
        database_url=migrated_url, secret_key=SECRET, data_dir=tmp_path, smtp_url=smtp_sink.url
    )
    async with (
        running(settings) as (url, key),
        httpx.AsyncClient(headers={"x-api-key": key}, timeout=PATIENCE) as client,
    ):

        async def ask(query: str, **variables: object) -> dict:
            answer = await client.post(f"{url}/graphql", json={"query": query, "variables": variables})
            body = answer.json()
            assert "errors" not in body, body
            return body["data"]

        customer = (await ask(CREATE_CUSTOMER))["createCustomer"]["customer"]
        wanted = {
            "customerId": customer["id"],
            "flowType": "GB_RESIDENTIAL_SPECIFIC",
            "expiry": in_a_year().isoformat(),
            "redirectUrl": receiver.url("/done"),
            "meterNumbers": [ELECTRICITY],
        }
        consent = (await ask(CREATE_CONSENT, input=wanted))["createHostedConsent"]["hostedConsent"]
        context = await browser.new_context(viewport={"width": 390, "height": 844}, java_script_enabled=False)
        page = await context.new_page()
        await page.goto(consent["link"])
        await page.get_by_label("Full name").fill("Ada Lovelace")
        await page.get_by_label("Email address").fill("ada@example.com")
        await page.get_by_role("button", name="Send me a code").click()
        (mail,) = await smtp_sink.wait_for(lambda one: "is your code" in one.subject)
        assert consent["link"] not in mail.text
        await page.get_by_role("textbox", name="Code").fill(mail.subject[:6])
        await page.get_by_role("button", name="I agree", exact=True).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Welcome back")
        await context.close()
        state = await ask(STATE, id=consent["id"])
        assert state["hostedConsent"] == {
            "status": "APPROVED",
            "valid": True,
            "link": None,
            "consenteeFullName": "Ada Lovelace",
            "consenteeEmailVerified": True,
            "meters": {"nodes": [{"status": "ACTIVE"}]},
        }
        assert [one["name"] for one in state["events"]["nodes"]] == [
            "user.created",
            "customer.created",
            "meter.created",
            "hosted_consent.approved",
        ]
        evidence = await client.get(state["hostedConsentEvidence"]["url"])
        assert evidence.headers["etag"] == f'"{state["hostedConsentEvidence"]["sha256"]}"'
        # The end customer gets no mail on approval: the code was the only one.
        assert [one.subject for one in smtp_sink.to("ada@example.com")] == [mail.subject]
