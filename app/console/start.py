"""The start page: an introduction, an explorer, the live events, the catalogue, and the event that a mail links to."""

import asyncio
import gzip
import json
from functools import cache

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.core.ids import is_id
from app.events.catalogue import catalogue
from app.graphql.context import Services
from app.graphql.http.compression import takes_gzip
from app.graphql.http.parameters import parameters_of
from app.schema import schema_text
from app.web.render import page_with_scripts
from app.web.static import CACHE_CONTROL


def routes(services: Services) -> list[BaseRoute]:
    """The page and the schema's text."""

    async def start(request: Request) -> Response:
        wanted = parameters_of(request).get("event", "")
        return page_with_scripts(
            "start.html",
            public_url=services.public_url,
            event_id=wanted if is_id(wanted, "evt") else None,
            event_types=[
                {
                    "name": one.type,
                    "words": one.words,
                    "description": one.description,
                    "example": json.dumps(one.example, indent=2, ensure_ascii=False),
                }
                for one in catalogue()
            ],
        )

    async def schema(request: Request) -> Response:
        # In a thread: the first call takes a good part of a second.
        text, compressed = await asyncio.to_thread(_schema)
        headers = {"Cache-Control": CACHE_CONTROL, "Vary": "Accept-Encoding"}
        if takes_gzip(request.headers.get("accept-encoding")):
            return PlainTextResponse(compressed, headers=headers | {"Content-Encoding": "gzip"})
        return PlainTextResponse(text, headers=headers)

    return [Route("/", start, methods=["GET"]), Route("/schema.graphql", schema, methods=["GET"])]


@cache
def _schema() -> tuple[str, bytes]:
    """The schema's text, plain and compressed."""
    text = schema_text()
    return text, gzip.compress(text.encode(), mtime=0)
