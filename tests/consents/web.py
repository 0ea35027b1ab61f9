"""A small application with the consent routes, and helpers for a visitor without scripts."""

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.consents import evidence, pages
from app.consents.terms import PAGE_VERSION
from app.graphql.http.rates import Rates
from app.web.render import TEMPLATES
from tests.consents.helpers import Asked
from tests.services.web_server import web_server
from tests.support import World

ORIGIN = "http://127.0.0.1:8000"
ENTERED = {
    "consenteeFullName": "Ada Lovelace",
    "consenteeEmail": "ada@example.com",
    "consenteeJobTitle": "Occupier",
}


def consent_app(world: World, rate: float = 1000) -> Starlette:
    """`rate` is the number of requests let through, because the limit's clock stands still."""
    services, rates = world.services, Rates(rate, clock=lambda: 0.0)
    return Starlette(
        routes=[
            *pages.routes(services, rates),
            *evidence.routes(services, world.authenticator, rates),
            Mount("/static", StaticFiles(directory=TEMPLATES.parent / "static")),
        ]
    )


@asynccontextmanager
async def visitor(world: World, rate: float = 1000) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(consent_app(world, rate))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[str]:
    """Serves the application on a real server and yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(consent_app(world), lifespan="off", log_config=None, access_log=False)
        async with web_server(config, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def text_of(html: str) -> str:
    """The text of a page, its white space folded."""
    body = html.partition("<main")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def hidden(html: str) -> dict[str, str]:
    """The hidden fields of a page's first form."""
    form = html.partition("<form")[2].partition("</form>")[0]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))


def path(asked: Asked) -> str:
    return f"/consents/{asked.token}"


async def post(client: httpx.AsyncClient, asked: Asked, action: str, **fields: str) -> httpx.Response:
    return await client.post(path(asked), data={"action": action, "pageVersion": PAGE_VERSION, **fields})
