"""The start page: an introduction, an explorer, the live events, the catalogue, and the event that a mail links to."""

import asyncio
import gzip
import json
from functools import cache, lru_cache
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.core.ids import is_id
from app.events.catalogue import EventData, catalogue
from app.graphql.context import Services
from app.graphql.http.compression import takes_gzip
from app.graphql.http.page_rates import rate_limited, rate_limited_page
from app.graphql.http.parameters import parameters_of
from app.graphql.http.rates import Rates
from app.schema import schema_text
from app.web.render import page_with_scripts, render
from app.web.static import CACHE_CONTROL

ANY_EVENT: Final = b"evt_of_the_mail"
"""Stands in the rendered page for the id of the event that a mail links to."""


def routes(services: Services, rates: Rates) -> list[BaseRoute]:
    """The page and the schema's text."""

    async def start(request: Request) -> Response:
        wanted = parameters_of(request).get("event", "")
        shows_event = is_id(wanted, "evt")
        html = _start_page(services.public_url, tuple(catalogue()), shows_event)
        return page_with_scripts(html.replace(ANY_EVENT, wanted.encode()) if shows_event else html)

    async def schema(request: Request) -> Response:
        # In a thread: the first call takes a good part of a second.
        text, compressed = await asyncio.to_thread(_schema)
        headers = {"Cache-Control": CACHE_CONTROL, "Vary": "Accept-Encoding"}
        if takes_gzip(request.headers.get("accept-encoding")):
            return PlainTextResponse(compressed, headers=headers | {"Content-Encoding": "gzip"})
        return PlainTextResponse(text, headers=headers)

    return [
        Route("/", rate_limited_page(rates, start), methods=["GET"]),
        Route("/schema.graphql", rate_limited(rates, schema), methods=["GET"]),
    ]


@lru_cache(2)
def _start_page(public_url: str, events: tuple[type[EventData], ...], shows_event: bool) -> bytes:
    """The page, rendered once; one that shows an event has ANY_EVENT as its id."""
    event_types = [
        {
            "name": one.type,
            "words": one.words,
            "description": one.description,
            "example": json.dumps(one.example, indent=2, ensure_ascii=False),
        }
        for one in events
    ]
    event_id = ANY_EVENT.decode() if shows_event else None
    return render("start.html", public_url=public_url, event_id=event_id, event_types=event_types).encode()


@cache
def _schema() -> tuple[str, bytes]:
    """The schema's text, plain and compressed."""
    text = schema_text()
    return text, gzip.compress(text.encode(), mtime=0)
