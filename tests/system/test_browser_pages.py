"""Pages of other origins and a browser's own EventSource, in a real browser."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from playwright.async_api import Page

from tests.services.patience import PATIENCE
from tests.system.clients import EVENTS, Api
from tests.system.deployment import Account, Deployment, deployed

SHOWN_WITHIN = PATIENCE * 1000
# Gives what the stream brings up to its `complete`, or up to the first event.
EVENT_SOURCE = """
([url, query, token]) => new Promise((resolve) => {
  const heard = [];
  const source = new EventSource(`${url}/graphql?${new URLSearchParams({query, access_token: token})}`);
  const end = (name) => { heard.push(name); source.close(); resolve(heard); };
  source.addEventListener("open", () => heard.push("open"));
  source.addEventListener("next", (event) => {
    const response = JSON.parse(event.data);
    heard.push({id: event.lastEventId, response});
    if (response.data) end("closed");
  });
  source.addEventListener("complete", () => end("complete"));
  source.addEventListener("error", () => end("error"));
})
"""
FETCH = """
async ([url, key]) => {
  const response = await fetch(`${url}/graphql?query={viewer{scopes}}`, {
    headers: {"x-api-key": key, "apollographql-client-name": "web", "traceparent": "00-1-1-00",
      "if-none-match": "none", "accept": "application/json"},
  });
  return [response.status, response.headers.get("etag") !== null, await response.json()];
}
"""
SOCKET = """
(url) => new Promise((resolve) => {
  const socket = new WebSocket(url, "graphql-transport-ws");
  socket.addEventListener("close", ({code, reason}) => resolve([code, reason]));
})
"""


@pytest.fixture(scope="module")
async def elsewhere() -> AsyncIterator[str]:
    """The origin of a server that has one empty page."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
async def allowing(elsewhere: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """A server that lets the pages of `elsewhere` in."""
    folder = tmp_path_factory.mktemp("allowing")
    async with deployed(["serve"], folder, allowed_origins=elsewhere) as running:
        yield running


async def token_of(deployment: Deployment, api: Api) -> str:
    made = await api.mutate("createStreamToken", "token")
    deployment.secrets.append(made["token"])
    return str(made["token"])


async def test_a_browsers_own_event_source_streams_and_is_told_what_is_wrong(
    allowing: Deployment, elsewhere: str, page: Page
) -> None:
    page.set_default_timeout(SHOWN_WITHIN)
    url = allowing.apis[0].url
    account = await allowing.account()
    async with Api(url, account.key) as api:
        token = await token_of(allowing, api)
        await page.goto(elsewhere)
        begin = (await api.data("{ eventStream { oldestCursor } }"))["eventStream"]["oldestCursor"]
        everything = f'subscription {{ events(after: "{begin}") {{ name cursor }} }}'
        heard = await page.evaluate(EVENT_SOURCE, [url, everything, token])
        assert [
            one if isinstance(one, str) else one["response"]["data"]["events"]["name"] for one in heard
        ] == [
            "open",
            "user.created",
            "closed",
        ]
        assert heard[1]["id"] == heard[1]["response"]["data"]["events"]["cursor"]
        wrong = await page.evaluate(EVENT_SOURCE, [url, "subscription { events { nothing } }", token])
        assert [wrong[0], wrong[2]] == ["open", "complete"]
        assert wrong[1]["response"]["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        # An address without a token, and with one that is none: HTTP errors, which EventSource gives up on.
        assert await page.evaluate(EVENT_SOURCE, [url, EVENTS, ""]) == ["error"]
    assert allowing.leaks() == []


async def test_pages_of_an_allowed_origin_send_headers_of_their_own_and_read_ours(
    allowing: Deployment, elsewhere: str, page: Page
) -> None:
    page.set_default_timeout(SHOWN_WITHIN)
    account = await allowing.account("Second", "second@example.com")
    await page.goto(elsewhere)
    status, has_etag, answer = await page.evaluate(FETCH, [allowing.apis[0].url, account.key])
    assert (status, has_etag, list(answer)) == (200, True, ["data"])


async def test_a_preflight_reflects_what_is_asked_for(allowing: Deployment, elsewhere: str) -> None:
    asked = "apollographql-client-name,traceparent,if-none-match"
    async with httpx.AsyncClient(base_url=allowing.apis[0].url, trust_env=False, timeout=PATIENCE) as client:
        preflight = await client.options(
            "/graphql",
            headers={
                "origin": elsewhere,
                "access-control-request-method": "POST",
                "access-control-request-headers": asked,
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == elsewhere
        assert preflight.headers["access-control-allow-headers"] == asked
        plain = await client.get("/graphql?query={__typename}", headers={"origin": elsewhere})
        assert plain.headers["access-control-expose-headers"] == "ETag, Location, Retry-After"


async def test_a_refused_page_is_told_of_the_setting_and_logged_once(
    served: Deployment, account: Account, elsewhere: str, page: Page
) -> None:
    page.set_default_timeout(SHOWN_WITHIN)
    api = served.apis[0]
    preflight = {"origin": elsewhere, "access-control-request-method": "POST"}
    async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=PATIENCE) as client:
        for _ in range(3):
            refused = await client.options("/graphql", headers=preflight)
            assert (refused.status_code, refused.text) == (
                403,
                "This origin is not in VOLTWIRE_ALLOWED_ORIGINS.\n",
            )
            assert "access-control-allow-origin" not in refused.headers
        # Our own pages are of no other origin, and the form of a page without a referrer names none.
        for origin in (api.url, "null"):
            await client.post("/graphql", json={"query": "{ __typename }"}, headers={"origin": origin})
    await page.goto(elsewhere)
    assert await page.evaluate(SOCKET, api.socket_url) == [
        1008,
        "This origin is not in VOLTWIRE_ALLOWED_ORIGINS.",
    ]
    told = [one for one in api.records() if "VOLTWIRE_ALLOWED_ORIGINS" in str(one["event"])]
    assert [one["origin"] for one in told if one["origin"] in (elsewhere, api.url, "null")] == [elsewhere]
