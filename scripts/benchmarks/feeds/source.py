"""A stand-in of Octopus Energy for the measurement of feeds: fast, and under as many base URLs as there are feeds.

All of its meters have the same readings, and a page of them is written once, so that the source is not what takes the
time. `FEEDS_METERS` says how many meters it has. Below `/1/v1`, `/2/v1` and so on it is the same source, which Voltwire
takes for several: with equal credentials one request at a time is made of each.
"""

import os
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.stand_ins.server import Endpoint


class PreparedOctopus(OctopusStandIn):
    """Octopus Energy with kept pages."""

    def endpoints(self) -> list[Endpoint]:
        self._pages: dict[str, dict[str, Any]] = {}
        return [
            one._replace(answer=self._prepared(one)) if one.path.endswith("/consumption/") else one
            for one in super().endpoints()
        ]

    def _prepared(self, endpoint: Endpoint) -> Any:
        async def answer(request: Request) -> Any:
            query = request.url.query
            page = self._pages.get(query)
            if page is None:
                found = await endpoint.answer(request)
                results = orjson.Fragment(orjson.dumps(found["results"]))
                page = self._pages[query] = {**found, "results": results}
            next_page = page["next"]
            if next_page is not None:
                number = int(request.query_params.get("page", "1")) + 1
                next_page = str(request.url.include_query_params(page=number))
            return {**page, "next": next_page}

        return answer


async def ready(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ready")


source = PreparedOctopus(neighbours=int(os.environ.get("FEEDS_METERS", "200")))
app = Starlette(routes=[Route("/", ready), Mount("/{feed}", app=source.app)])
