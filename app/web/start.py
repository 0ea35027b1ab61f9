"""The start page: what this is, an explorer, the live events, the catalogue, and the event that a mail points to."""

import asyncio
import gzip
import json
from functools import cache
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from app.api.compression import takes_gzip
from app.api.context import Services
from app.api.schema import schema_text
from app.events.catalogue import EventType, catalogue
from app.ids import is_id
from app.web.render import page_with_scripts
from app.web.static import KEPT

WORDS: Final = {
    EventType.METER_DATA_RECEIVED: "Meter data received",
    EventType.METER_CREATED: "Meter created",
    EventType.USER_CREATED: "User created",
    EventType.CUSTOMER_CREATED: "Customer created",
    EventType.API_KEYS_ROTATED: "API key rotated",
    EventType.HOSTED_CONSENT_APPROVED: "Consent approved",
    EventType.HOSTED_CONSENT_REVOKED: "Consent revoked",
}


def routes(services: Services) -> list[BaseRoute]:
    """The page and the schema's text."""

    async def start(request: Request) -> Response:
        wanted = request.query_params.get("event", "")
        return page_with_scripts(
            "start.html",
            public_url=services.public_url,
            event_id=wanted if is_id(wanted, "evt") else None,
            event_types=[
                {
                    "name": one.type.value,
                    "words": WORDS[one.type],
                    "description": one.description,
                    "example": json.dumps(one.example, indent=2, ensure_ascii=False),
                }
                for one in catalogue()
            ],
        )

    async def schema(request: Request) -> Response:
        # Built once, and beside the loop, for it takes a good part of a second.
        text, packed = await asyncio.to_thread(_schema)
        headers = {"Cache-Control": KEPT, "Vary": "Accept-Encoding"}
        if takes_gzip(request.headers.get("accept-encoding")):
            return PlainTextResponse(packed, headers=headers | {"Content-Encoding": "gzip"})
        return PlainTextResponse(text, headers=headers)

    return [Route("/", start, methods=["GET"]), Route("/schema.graphql", schema, methods=["GET"])]


@cache
def _schema() -> tuple[str, bytes]:
    """As it is and compressed."""
    text = schema_text()
    return text, gzip.compress(text.encode(), mtime=0)
