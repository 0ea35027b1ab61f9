"""The consent routes in a small application of their own, and what a visitor without scripts does with them."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from app.api.limits import RateLimiter
from app.consents import evidence, pages
from app.web.render import TEMPLATES
from tests.support import World

ORIGIN = "http://127.0.0.1:8000"


def consent_app(world: World, rate: float = 1000) -> Starlette:
    services, limiter = world.services, RateLimiter(rate)
    return Starlette(
        routes=[
            *pages.routes(services, limiter),
            *evidence.routes(services, world.authenticator, limiter),
            Mount("/static", StaticFiles(directory=TEMPLATES.parent / "static")),
        ]
    )


@asynccontextmanager
async def visitor(world: World, rate: float = 1000) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(consent_app(world, rate))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield client


def text_of(html: str) -> str:
    """What a page says, its white space folded."""
    body = html.partition("<main")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def hidden(html: str) -> dict[str, str]:
    """The hidden fields of a page's first form."""
    form = html.partition("<form")[2].partition("</form>")[0]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
