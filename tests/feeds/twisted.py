"""Conversations of a source with its stand-in, recorded, and told again with something in them twisted."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson

from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.source import FetchedMeter, Source, SourceKind, Window
from app.feeds.stand_ins.kinds import STAND_INS
from app.feeds.stand_ins.server import StandIn
from tests.feeds.asking import NOW
from tests.feeds.sources import HASTE

HOST: Final = "source.test"
LARGE: Final = 120
"""Members of an object from which on it is shortened, as twists are tried by the thousand."""
REMOVED: Final = object()
"""Stands for a member that is taken out."""
Path = tuple[str | int, ...]
Twist = Callable[[int, Any], Any]
"""Given the number of a request, from 0, and the JSON of its answer, it gives the JSON to answer with."""


@dataclass
class Told(httpx.AsyncBaseTransport):
    """A stand-in in this process, whose answers a twist changes. Given answers are given again as they were."""

    stand_in: StandIn
    twist: Twist | None = None
    is_short: bool = False
    known: dict[tuple[str, str, bytes], httpx.Response] = field(default_factory=dict)
    answers: list[bytes] = field(default_factory=list)
    asked: int = 0

    def __post_init__(self) -> None:
        self._app = httpx.ASGITransport(self.stand_in.app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host == HOST, f"A request went to {request.url}"
        key = request.method, str(request.url), await request.aread()
        if key not in self.known:
            response = await self._app.handle_async_request(request)
            content = await response.aread()
            if self.is_short:
                content = orjson.dumps(_shortened(orjson.loads(content)))
            self.known[key] = httpx.Response(response.status_code, content=content)
        response, number = self.known[key], self.asked
        self.asked += 1
        self.answers.append(response.content)
        if self.twist is None or response.status_code != 200:
            return httpx.Response(response.status_code, content=response.content)
        return httpx.Response(200, content=orjson.dumps(self.twist(number, orjson.loads(response.content))))


class Conversation:
    """The requests and answers of fetching one meter's window from the stand-in of a kind."""

    def __init__(self, kind: SourceKind, label: str, window: Window, seed: int = 1) -> None:
        self.kind = kind
        self.stand_in = STAND_INS[kind.kind](seed=seed, now=NOW)
        served = self.stand_in.meter(label)
        settings = self.stand_in.meter_settings(served)
        self.meter = FetchedMeter(served.number, served.household.type, settings)
        self.window = window
        self._told = Told(self.stand_in)

    async def answers(self) -> list[bytes]:
        """The bodies of the answers, in order; objects with very many members are shortened, here and later."""
        self._told.is_short = True
        async with self.source() as source:
            await source.fetch(self.meter, self.window)
        return list(self._told.answers)

    @asynccontextmanager
    async def source(self, twist: Twist | None = None) -> AsyncIterator[Source]:
        """A source that is told twisted answers."""
        self._told.twist, self._told.asked = twist, 0
        self._told.answers.clear()
        url = f"http://{HOST}{self.stand_in.base_path}"
        exchange = Exchange(self._told, url, TokenBucket(HASTE, 10_000), self.stand_in.credentials.values())
        yield self.kind.open(self.stand_in.credentials, self.stand_in.settings, exchange)


def _shortened(content: Any) -> Any:
    """JSON without the first members of objects with very many."""
    if isinstance(content, dict):
        members = list(content.items())
        return {name: _shortened(one) for name, one in members[-8 if len(members) > LARGE else 0 :]}
    return [_shortened(one) for one in content] if isinstance(content, list) else content


def places(content: Any, path: Path = ()) -> Iterator[Path]:
    """The places of JSON; of long lists and objects the first members and the last."""
    yield path
    members: list[tuple[str | int, Any]] = []
    if isinstance(content, dict):
        members = list(content.items())
    elif isinstance(content, list):
        members = list(enumerate(content))
    for name, member in members if len(members) <= 9 else (*members[:2], members[-1]):
        yield from places(member, (*path, name))


def replaced(content: Any, path: Path, value: Any) -> Any:
    """The JSON with another value at a place, or without the place."""
    if not path:
        return None if value is REMOVED else value
    holder = content
    for name in path[:-1]:
        holder = holder[name]
    if value is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content
