"""Sources of a kind over real sockets: the transport that feeds use, and readings in a form to compare."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import orjson

from app.core.decimals import format_micro
from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.source import Fetched, FetchedMeter, Source, SourceKind, Window
from app.meters.enums import MeterType
from app.outbound.http.ssrf_guard import Networks
from app.outbound.http.transport import Transport
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import Answer, says

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)
HASTE = 6_000_000.0
"""Requests a minute of a bucket that never lets anyone wait."""
SECRETS = {
    "apiKey": "key-5b1e/+ 7c",
    "username": "reader@example.org",
    "password": 'pass "word" 9f&+',
}
METER = FetchedMeter("1312345678907", MeterType.ELECTRICITY)


@asynccontextmanager
async def opened(
    kind: SourceKind,
    base_url: str,
    settings: Mapping[str, str] | None = None,
    credentials: Mapping[str, str] | None = None,
    deadline: float = 10.0,
) -> AsyncIterator[Source]:
    """A kind's source at a base URL, as the worker opens it, but in haste."""
    given = {name: (credentials or SECRETS)[name] for name in kind.credentials}
    async with Transport(LOOPBACK) as transport:
        exchange = Exchange(transport, base_url, TokenBucket(HASTE, 1_000), given.values(), deadline)
        yield kind.open(given, settings or {}, exchange)


def at(text: str) -> datetime:
    """The instant of `2024-03-31 00:30` in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str) -> Window:
    return Window(at(start), at(end))


def shown(fetched: Fetched, channel: ReadingChannel = ReadingChannel.IMPORT) -> dict[str, str]:
    """The readings of a channel by their starts: kWh, with an E behind those that are estimated."""
    columns = fetched.readings.get(channel)
    if columns is None:
        return {}
    return {
        f"{datetime.fromtimestamp(start * HALF_HOUR_MS / 1000, UTC):%Y-%m-%d %H:%M}": (
            format_micro(amount) + ("E" if estimated else "")
        )
        for start, amount, estimated in zip(*columns, strict=True)
    }


def missed(fetched: Fetched) -> list[tuple[str, str, str, str]]:
    """Channel, start, end and cause of each missing period."""
    return [
        (one.channel.name, f"{one.start:%Y-%m-%d %H:%M}", f"{one.end:%Y-%m-%d %H:%M}", one.cause)
        for one in fetched.missing
    ]


def answers(content: Any, status: int = 200, headers: bytes = b"") -> Answer:
    """A receiver's answer with JSON, or with these bytes."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    return says(head % (status, len(body), headers) + body)
