"""Gzip for answers that are long enough to gain by it, when the client asks for it."""

import asyncio
import gzip
from typing import Final

from app.graphql.http.negotiation import parts_of, quality_of

SHORTEST: Final = 1024
"""Bytes from which compressing saves a packet."""

LEVEL: Final = 1
"""Rows of one shape are as good as repeated: higher levels take twice the time for a tenth less."""

BESIDE: Final = 256 * 1024
"""Bytes from which the loop does not wait for it."""


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
            # In doubt it goes out as it is, which everyone reads.
            return name.strip(), quality_of(value, otherwise=0.0)
    return name.strip(), 1.0
