"""Probes for operators: liveness, readiness and metrics.

Metrics are for the operator's own networks. A request that came through a proxy may be anybody's, whatever the proxy's
own address is: it gets 404.
"""

import ipaddress
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.core.settings import Settings
from app.graphql.http.plain_json import PlainJson
from app.server.process import Process

FORWARDED: Final = ("forwarded", "via", "x-real-ip")
"""Headers in which proxies name their client, beside all that begin with `x-forwarded`."""


def routes(process: Process) -> list[BaseRoute]:
    """`/healthz`, `/readyz` and `/metrics` of a process."""

    async def healthz(_request: Request) -> Response:
        return PlainJson({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        faults = await process.faults()
        parts: dict[str, object] = {part: fault is None for part, fault in faults.items()}
        reasons = " ".join(filter(None, faults.values()))
        return PlainJson(parts | {"reason": reasons} if reasons else parts, 503 if reasons else 200)

    async def metrics(request: Request) -> Response:
        if not may_read_metrics(request, process.settings):
            raise HTTPException(404)
        return process.metrics.response()

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


def may_read_metrics(request: Request, settings: Settings) -> bool:
    """Whether the request comes straight from an address in VOLTWIRE_METRICS_NETWORKS."""
    if any(name in FORWARDED or name.startswith("x-forwarded") for name in request.headers):
        return False
    try:
        peer = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    if any(peer in network for network in settings.trusted_proxies):
        return False
    return any(peer in network for network in settings.metrics_networks)
