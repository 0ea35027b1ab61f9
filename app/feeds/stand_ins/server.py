"""The base of the stand-ins: a small server that plays a scenario, counts requests, and refuses those outside limits.

A kind's server is a subclass that has its endpoints and words. Tests start one in their own loop by `serving`; the
command `voltwire stand-in` serves one until it is interrupted.
"""

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from app.feeds.enums import FeedKind
from app.feeds.source import Window
from app.feeds.stand_ins.meters import Clock, ServedMeter, meters_of
from app.feeds.stand_ins.scenarios import COMPLETE, QUOTA_SECONDS, SLOW_SECONDS, Scenario
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

OWN: Final = "/_stand-in"
"""The path of what a stand-in has beside its source's endpoints; requests to it are not counted."""
KEPT: Final = 5_000
"""The newest requests that are remembered one by one; the totals count all."""
PAGE: Final = "<!doctype html><title>Maintenance</title><h1>We will be back soon.</h1>"


class Asked(NamedTuple):
    """A request: its path with the query, the status that it got (0: a cut connection), and why it was refused."""

    method: str
    target: str
    status: int
    refused: str | None


class Answered(Exception):
    """An answer other than a plain 200, in the source's own shape. `refused`: the request was outside its limits."""

    def __init__(
        self,
        status: int,
        content: Any,
        *,
        headers: Mapping[str, str] | None = None,
        refused: str | None = None,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.content = content
        self.headers = dict(headers or {})
        self.refused = refused


class Endpoint(NamedTuple):
    """An endpoint of a source: `answer` gives the JSON of a 200, or raises Answered."""

    path: str
    answer: Callable[[Request], Awaitable[Any]]
    method: str = "GET"


@dataclass
class Counts:
    """Requests to a stand-in. `refused` has those that its source would not have taken, each with the reason."""

    total: int = 0
    refused: list[str] = field(default_factory=list)
    newest: deque[Asked] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, asked: Asked) -> None:
        self.total += 1
        self.newest.append(asked)
        if asked.refused is not None and len(self.refused) < KEPT:
            self.refused.append(f"{asked.method} {asked.target}: {asked.refused}")

    def matching(self, part: str) -> list[Asked]:
        """The requests whose path or query holds a text."""
        return [asked for asked in self.newest if part in asked.target]


class StandIn(ABC):
    """A server that stands in for a source. `now` fixes its present; the scenario can be changed while it runs."""

    kind: ClassVar[FeedKind]
    credentials: ClassVar[Mapping[str, str]]
    """The credentials that it accepts, by the names that createFeed takes."""
    settings: ClassVar[Mapping[str, str]] = {}
    """Settings that createFeed needs beside `baseUrl`."""
    base_path: ClassVar[str] = ""
    """The path of the base URL; begins with a slash unless empty."""
    has_export_numbers: ClassVar[bool] = False
    """Whether it shows a household's export under the export's own MPAN."""
    requests_a_minute: ClassVar[int | None] = None
    """The source's own limit, beyond which a request is refused."""
    retry_after: ClassVar[bool] = True
    """Whether its 429 says when to come again."""

    def __init__(
        self,
        scenario: Scenario = COMPLETE,
        seed: int = 1,
        *,
        now: datetime | None = None,
        numbers: Sequence[str] = (),
        neighbours: int = 0,
    ) -> None:
        self.clock = Clock(now)
        self.counts = Counts()
        self._meters_of = partial(
            meters_of, seed=seed, time=self.clock, numbers=numbers, neighbours=neighbours
        )
        self._minute: deque[float] = deque()
        self.play(scenario)

    def play(self, scenario: Scenario) -> None:
        """Changes the scenario, from the next request on."""
        self.scenario = scenario
        self.meters: dict[str, ServedMeter] = self._meters_of(scenario)
        self._faults = 0
        self._quota_left = scenario.quota
        self._quota_ends = 0.0

    @abstractmethod
    def endpoints(self) -> Sequence[Endpoint]:
        """The source's endpoints; paths are those below the base path."""

    @abstractmethod
    def error(self, status: int, message: str) -> Any:
        """An error's body in the source's shape."""

    @abstractmethod
    def authorize(self, request: Request) -> None:
        """Raises Answered unless the request has what the source accepts, or where `has_expired`."""

    def meter_settings(self, meter: ServedMeter) -> Mapping[str, str]:
        """Settings that setMeterFeed needs for a meter."""
        return {}

    def meter(self, label: str) -> ServedMeter:
        """The meter with a label, such as "Home with solar panels"."""
        return next(meter for meter in self.meters.values() if meter.label == label)

    def truth(self, number: str, window: Window, channel: ReadingChannel = ReadingChannel.IMPORT) -> Columns:
        """The readings that Voltwire has to have of a meter's window by what the source shows now."""
        return self.meters[number].truth(window, channel)

    def forget(self) -> None:
        """Begins to count anew."""
        self.counts = Counts()
        self._minute.clear()

    def settle(self) -> None:
        """Lets everything arrive that is late, and corrects every estimate."""
        self.clock.settle()

    def failed(self, status: int, message: str, **headers: str) -> Answered:
        """A failure as the source reports it, of a request within its limits."""
        return Answered(status, self.error(status, message), headers=headers)

    def outside(self, reason: str, status: int = 400) -> Answered:
        """The refusal of a request that is outside the source's limits."""
        return Answered(status, self.error(status, reason), refused=reason)

    async def slow_down(self, meter: ServedMeter) -> None:
        """Waits if this meter is a slow one; a kind calls it before it answers about a meter."""
        if meter.scenario.is_slow:
            await asyncio.sleep(SLOW_SECONDS)

    @property
    def app(self) -> Starlette:
        """The server as an ASGI application."""
        own = [
            Route(f"{OWN}/requests", self._tell, methods=["GET"]),
            Route(f"{OWN}/settle", self._settle, methods=["POST"]),
        ]
        routes = [
            Route(self.base_path + one.path, self._handler(one.answer), methods=[one.method])
            for one in self.endpoints()
        ]
        return Starlette(routes=[*own, *routes, Route("/{path:path}", self._handler(self._unknown))])

    async def _unknown(self, request: Request) -> Any:
        raise self.outside(f"There is no {request.method} {request.url.path}.", 404)

    def _handler(
        self, answer: Callable[[Request], Awaitable[Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            refused = None
            try:
                response = await self._respond(request, answer)
            except Answered as answered:
                refused = answered.refused
                response = _json(answered.content, answered.status, answered.headers)
            query = f"?{request.url.query}" if request.url.query else ""
            status = 0 if isinstance(response, _Cut) else response.status_code
            self.counts.add(Asked(request.method, f"{request.url.path}{query}", status, refused))
            return response

        return handle

    async def _respond(self, request: Request, answer: Callable[[Request], Awaitable[Any]]) -> Response:
        self._check_rate()
        if fault := self._fault():
            return fault
        if self.scenario.is_slow:
            await asyncio.sleep(SLOW_SECONDS)
        self._check_quota()
        self.authorize(request)
        return _json(await answer(request))

    def _check_rate(self) -> None:
        if self.requests_a_minute is None:
            return
        now = time.monotonic()
        while self._minute and self._minute[0] <= now - 60:
            self._minute.popleft()
        self._minute.append(now)
        if len(self._minute) > self.requests_a_minute:
            raise self.outside(f"These are more than {self.requests_a_minute} requests in a minute.", 429)

    def _check_quota(self) -> None:
        if not self.scenario.quota:
            return
        now = time.monotonic()
        if self._quota_ends and now >= self._quota_ends:
            self._quota_left, self._quota_ends = self.scenario.quota, 0.0
        if self._quota_left == 0:
            # The pause begins with the first refusal, so that there always is one.
            self._quota_ends = self._quota_ends or now + QUOTA_SECONDS
            headers = {"retry-after": str(QUOTA_SECONDS)} if self.retry_after else {}
            raise self.failed(429, "The limit of requests is reached.", **headers)
        self._quota_left -= 1

    def _fault(self) -> Response | None:
        """The fault that is due, if one is: a 503, a cut connection and a page of HTML, in turn."""
        if not self.scenario.fails_each:
            return None
        self._faults += 1
        number, rest = divmod(self._faults, self.scenario.fails_each)
        if rest:
            return None
        match number % 3:
            case 1:
                return _json(self.error(503, "Try again later."), 503)
            case 2:
                return _Cut()
            case _:
                return Response(PAGE, media_type="text/html")

    async def _tell(self, _request: Request) -> Response:
        counts = self.counts
        asked = [one._asdict() for one in counts.newest]
        return _json({"total": counts.total, "refused": counts.refused, "requests": asked})

    async def _settle(self, _request: Request) -> Response:
        self.settle()
        return _json({"settled": True})


class _Cut(Response):
    """An answer that breaks off in the middle."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"results":[', "more_body": True})


def listener(host: str, port: int) -> socket.socket:
    """A socket that is bound to a port; 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, or asyncio would leave the delays on by which an answer in two parts takes 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


@asynccontextmanager
async def serving(stand_in: StandIn, bound: socket.socket | None = None) -> AsyncIterator[str]:
    """Serves in the running loop, by default on a free port of 127.0.0.1. Gives the base URL of the feed."""
    bound = bound or listener("127.0.0.1", 0)
    # Its own words about cut connections would drown what a person wants to see.
    config = uvicorn.Config(
        stand_in.app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve([bound]), name=f"stand-in {stand_in.kind.name}")
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)
        host, port = bound.getsockname()[:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}{stand_in.base_path}"
    finally:
        server.should_exit = True
        await running
        bound.close()


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
