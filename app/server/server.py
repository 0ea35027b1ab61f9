"""Runs a process until SIGTERM or SIGINT, which drain it within seconds."""

import asyncio
import contextlib
import gc
import signal
import socket
from functools import partial
from types import FrameType
from typing import Any, Final, NoReturn

import structlog
import uvicorn
import uvloop
from starlette.applications import Starlette

from app.core import descriptors
from app.core.settings import Settings
from app.server.connections import Connections
from app.server.main import create_app, create_probes
from app.server.process import Process
from app.server.uvicorn_http import HttpProtocol
from app.server.uvicorn_websockets import FrameProtocol

log = structlog.get_logger()

GRACE = 12
"""Seconds for draining and for the requests under way together, of the 20 that SIGTERM may take."""

LOCAL_URL = "http://127.0.0.1:8000"
"""The API's address for the links of a worker without VOLTWIRE_PUBLIC_URL."""

TICKS: Final = 10
"""Ticks of uvicorn's main loop, a tenth of a second each, between two checks for free file descriptors."""

FILES_TO_RESUME: Final = 8
"""Free file descriptors from which on connections are accepted again."""

GC_THRESHOLDS: Final = (10_000, 5, 5)
"""With Python's defaults (700, 10, 10) garbage collection takes a third of the time of an event's execution for a
hundred groups of subscriptions; with much higher ones the garbage of thousands of closed sockets piles up.
"""


class Server(uvicorn.Server):
    """Drains the streams and the worker on shutdown, before it waits for requests to end.

    It stops listening while the process has no file descriptor left: else the loop would spin on connections that it
    cannot accept. They wait in the port's queue meanwhile.
    """

    def __init__(self, config: uvicorn.Config, process: Process, listener: socket.socket) -> None:
        super().__init__(config)
        self._process = process
        # A duplicate keeps the port while the server does not listen.
        self._port = listener.dup()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            await self._check_files()
        return await super().on_tick(counter)

    async def _check_files(self) -> None:
        if self.servers and not descriptors.can_open(1):
            log.warning("no connection is accepted: the process may open no more files (ulimit -n)")
            self._stop_listening()
        elif not self.servers and descriptors.can_open(FILES_TO_RESUME):
            # Descriptors that were free a moment ago may be taken: the next check tries again.
            with contextlib.suppress(OSError):
                await self._listen()
                log.info("connections are accepted again")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._protocol, sock=self._port.dup(), backlog=self.config.backlog)
        self.servers = [server]

    def _stop_listening(self) -> None:
        for server in self.servers:
            server.close()
        self.servers = []

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + GRACE
        # New connections are better served by another process.
        self._stop_listening()
        self._port.close()
        await self._process.drain()
        # Requests went on meanwhile: their time counts from the signal as well.
        self.config.timeout_graceful_shutdown = max(1, int(ends_at - loop.time()))
        await super().shutdown(sockets)


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handles signals outside uvicorn's own handling: before it there is nothing to drain, after it all is drained."""
    raise SystemExit(0)


def run_server(settings: Settings, host: str, port: int, *, with_worker: bool) -> None:
    """Serves until a signal."""
    listener = _listen(host, port)
    url = _url_of(host, listener)
    process = Process(settings, public_url=url, with_worker=with_worker)
    log.info("serving", url=url, graphql=f"{url}/graphql", worker=with_worker)
    _serve(process, create_app(process), listener)


def _url_of(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _serve(process: Process, app: Starlette, listener: socket.socket) -> None:
    settings = process.settings
    connections = Connections(
        settings.max_connections_per_address,
        descriptors.for_connections(descriptors.raise_limit()),
        settings.trusted_proxies,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=partial(HttpProtocol, connections=connections),  # type: ignore[arg-type]
        ws=FrameProtocol,
        ws_per_message_deflate=False,
        ws_max_size=settings.max_message,
        # Clients measure liveness by the GraphQL protocol's own ping; this one finds peers that vanished.
        ws_ping_interval=20,
        ws_ping_timeout=20,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(one) for one in settings.trusted_proxies],
        server_header=False,
        backlog=4096,
    )
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _exit)
    _tune_gc()
    Server(config, process, listener).run(sockets=[listener])


def _tune_gc() -> None:
    """Exempts the present objects, mostly code and the schema, from garbage collection, and makes it rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SystemExit(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port."
        ) from None
    listener.set_inheritable(True)
    return listener


def run_worker(settings: Settings, host: str = "127.0.0.1", port: int | None = None) -> None:
    """Works until a signal; with a port it answers probes there."""
    if settings.public_url is None:
        log.warning("VOLTWIRE_PUBLIC_URL is not set: links in mails lead to this machine", url=LOCAL_URL)
    listener = None if port is None else _listen(host, port)
    process = Process(settings, public_url=LOCAL_URL, with_worker=True)
    if listener is not None:
        log.info("working", url=_url_of(host, listener))
        _serve(process, create_probes(process), listener)
        return

    async def run() -> None:
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, ended.set)
        _tune_gc()
        async with process.running():
            log.info("working")
            await ended.wait()
            await process.drain()

    uvloop.run(run())
