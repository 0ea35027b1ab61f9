"""Compresses long responses by gzip, for clients that ask for it."""

import asyncio
import gzip
from typing import Final

from app.graphql.http.negotiation import parts_of, quality_of

SHORTEST: Final = 1024
"""Bytes from which on compression saves a packet."""

LEVEL: Final = 1
"""Rows of one shape repeat so much that higher levels take twice the time for a tenth less."""

BESIDE: Final = 256 * 1024
"""Bytes from which on a thread compresses them beside the event loop."""


def takes_gzip(accept_encoding: str | None) -> bool:
    """Whether an Accept-Encoding header prefers gzip to nothing (RFC 9110, 12.5.3)."""
    if not accept_encoding:
        return False
    qualities = dict(_coding(part) for part in parts_of(accept_encoding.lower()))
    wanted = max(
        (qualities[one] for one in ("gzip", "x-gzip") if one in qualities), default=qualities.get("*", 0.0)
    )
    return wanted > 0 and wanted >= qualities.get("identity", 0.0)


async def gzipped(body: bytes) -> bytes:
    if len(body) < BESIDE:
        return gzip.compress(body, LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)


def _coding(part: str) -> tuple[str, float]:
    name, _, parameters = part.partition(";")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            # An unreadable quality counts as none: every client reads uncompressed responses.
            return name.strip(), quality_of(value, otherwise=0.0)
    return name.strip(), 1.0
