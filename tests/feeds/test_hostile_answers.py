"""Answers of sources that are wrong, broken or meant to harm, for every kind.

Each ends as a SourceFailure with a meaning, or as half-hours that are missing; never as another error, a wait without
end, a reading that the source did not give, or a secret in a sentence.
"""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson
import pytest

from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.kinds import SOURCE_KINDS
from app.feeds.source import Fetched, FetchedMeter, Source, SourceKind
from app.feeds.stand_ins.households import half_hour
from app.outbound.http.transport import Transport
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import (
    Answer,
    Request,
    closes,
    drips,
    floods,
    hangs,
    receiver,
    says,
    then_resets,
)
from tests.feeds.asking import DAY
from tests.feeds.sources import HASTE, LOOPBACK, answers
from tests.feeds.twisted import REMOVED, Conversation, Path, places, replaced

IMPORT = ReadingChannel.IMPORT
HASTY: Final = 0.2
"""Seconds for an exchange that never ends."""
LONG: Final = 20.0
HTML: Final = b"<!doctype html><title>Sign in</title><form action=/login>"
MILLION: Final = 1_000_000

KINDS = pytest.mark.parametrize("kind", SOURCE_KINDS.values(), ids=[kind.name for kind in SOURCE_KINDS])
TWISTS: Final = (
    None, True, -1, 5, 1e300, "abc", "1e400", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "../../auth",
    "\ud7ff\x00\x1b[2J", [], {}, [None], REMOVED,
)  # fmt: skip
COUNTED: Final = {0, 5_000_000}
"""Millionths of a kWh that the values above may stand for where a reading belongs."""


@KINDS
async def test_wrong_types_at_every_place(kind: SourceKind) -> None:
    conversation = Conversation(kind, "Home of new tenants", DAY)
    recorded = await conversation.answers()
    truth = conversation.stand_in.truth(conversation.meter.number, DAY)
    given = dict(zip(truth.starts, truth.amounts, strict=True))
    tried = 0
    for number, body in enumerate(recorded):
        for path in places(orjson.loads(body)):
            for value in TWISTS:
                if value is REMOVED and path and isinstance(path[-1], int):
                    continue
                await _is_met(conversation, number, path, value, given)
                tried += 1
    assert tried > 100


async def _is_met(
    conversation: Conversation, number: int, path: Path, value: Any, given: Mapping[int, int]
) -> None:
    def twist(at: int, content: Any) -> Any:
        return replaced(content, path, value) if at == number else content

    where = f"{value!r} at {path} of answer {number}"
    async with conversation.source(twist) as source:
        try:
            found = await source.fetch(conversation.meter, DAY)
        except SourceFailure as failure:
            _is_presentable(failure, conversation.stand_in.credentials)
            return
        except Exception as error:
            raise AssertionError(where) from error
    assert set(found.readings) <= {IMPORT}, where
    starts, amounts, _ = found.readings.get(IMPORT, ([], [], []))
    assert starts == sorted(set(starts)), where
    other = [amount for at, amount in zip(starts, amounts, strict=True) if given.get(at) != amount]
    assert len(other) <= 1, where
    assert set(other) <= COUNTED, where
    _is_sound(found)


@KINDS
async def test_unknown_fields_are_passed_over(kind: SourceKind) -> None:
    conversation = Conversation(kind, "Home", DAY)
    await conversation.answers()

    def twist(_: int, content: Any) -> Any:
        return _with_more(content) if kind.kind.name != "ELECTRALINK" else content | {"more": [1]}

    async with conversation.source(twist) as source:
        found = await source.fetch(conversation.meter, DAY)
    assert found.readings == {IMPORT: conversation.stand_in.truth(conversation.meter.number, DAY)}


def _with_more(content: Any) -> Any:
    if isinstance(content, dict):
        return {**{name: _with_more(member) for name, member in content.items()}, "more": {"deep": [1]}}
    return [_with_more(member) for member in content] if isinstance(content, list) else content


@pytest.mark.parametrize(
    "link",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://evil.test/v1/x",
        "//evil.test/v1/x",
        "https://source.test/v1/x",
        "http://source.test:81/v1/x",
        "http://source.test@evil.test/",
        "http://source.test:99999/",
        "http://[/",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
async def test_links_to_elsewhere_are_not_followed(link: Any) -> None:
    """Octopus alone gives links."""
    kind = next(kind for name, kind in SOURCE_KINDS.items() if name.name == "OCTOPUS")
    conversation = Conversation(kind, "Home", DAY)
    await conversation.answers()

    def twist(_: int, content: Any) -> Any:
        return content | {"next": link} if "next" in content else content

    async with conversation.source(twist) as source:
        with pytest.raises(SourceFailure) as raised:
            await source.fetch(conversation.meter, DAY)
    assert raised.value.meaning is Meaning.RETRY


@dataclass(frozen=True)
class Hostile:
    """An answer over a socket, and the meaning that it has."""

    answer: Answer
    meaning: Meaning = Meaning.RETRY
    deadline: float = LONG


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def _redirect(status: int, location: str) -> Hostile:
    head = _head(f"Location: {location}", "Content-Length: 0", status=f"{status} Found")
    return Hostile(says(head), Meaning.FEED)


CHUNKED: Final = _head("Transfer-Encoding: chunked")
WIRE: Final[Mapping[str, Hostile]] = {
    "html": Hostile(answers(HTML)),
    "empty": Hostile(answers(b"")),
    "text": Hostile(answers(b"OK")),
    "null": Hostile(answers(b"null")),
    "nested": Hostile(answers(b"[" * 100_000 + b"]" * 100_000)),
    "nested objects": Hostile(answers(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "1e400": Hostile(answers(b'{"data":[[1,1e400]]}')),
    "NaN": Hostile(answers(b'{"data":[NaN,Infinity]}')),
    "bad UTF-8": Hostile(answers(b'{"data":"\xff\xfe"}')),
    "UTF-16": Hostile(answers('{"data":[]}'.encode("utf-16"))),
    "gzip": Hostile(answers(gzip.compress(b"{}"), headers=b"Content-Encoding: gzip\r\n")),
    "a string": Hostile(answers(b'"' + b"a" * 1000 + b'"')),
    "a number": Hostile(answers(b"12345678901234567890123456789012345678901234567890")),
    "a million entries": Hostile(answers(b"[" + b"0," * MILLION + b"0]")),
    "a million entries in data": Hostile(answers(b'{"data":[' + b"0," * MILLION + b"0]}")),
    "endless": Hostile(floods(_head(), b" " * 65_536)),
    "endless chunks": Hostile(floods(CHUNKED, b"10000\r\n" + b" " * 65_536 + b"\r\n")),
    "endless head": Hostile(floods(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65_536)),
    "a length beyond all bounds": Hostile(floods(_head("Content-Length: 99999999999999"), b" " * 65_536)),
    "dripping": Hostile(drips(_head("Content-Length: 100000"), b" "), deadline=HASTY),
    "dripping head": Hostile(drips(b"HTTP/1.1 200 OK\r\nX: ", b"a"), deadline=HASTY),
    "silence": Hostile(hangs, deadline=HASTY),
    "closed": Hostile(closes),
    "cut": Hostile(then_resets(_head("Content-Length: 1000"), b'{"data":[')),
    "cut chunks": Hostile(then_resets(CHUNKED, b'9\r\n{"data":[\r\n')),
    "too short a length": Hostile(says(_head("Content-Length: 5") + b'{"data":[]}')),
    "two lengths": Hostile(says(_head("Content-Length: 2", "Content-Length: 5") + b"{}abc")),
    "no HTTP": Hostile(says(b"SSH-2.0-OpenSSH_9.9\r\n")),
    "500": Hostile(answers(HTML, 500)),
    "418": Hostile(answers(HTML, 418)),
    "503 of a million words": Hostile(answers(b'{"message":"' + b"Wait. " * 100_000 + b'"}', 503)),
    "429": Hostile(answers(b"", 429, b"Retry-After: soon\r\n"), Meaning.WAIT),
    "301": _redirect(301, "/elsewhere"),
    "302 to metadata": _redirect(302, "http://169.254.169.254/latest/meta-data/"),
    "307 to a name": _redirect(307, "http://localhost/"),
    "308 to nowhere": _redirect(308, ""),
}


@KINDS
@pytest.mark.parametrize("name", WIRE)
async def test_answers_over_the_wire(kind: SourceKind, name: str) -> None:
    hostile = WIRE[name]
    for before in await _beginnings(kind):
        async with receiver(*(answers(body) for body in before), hostile.answer) as place:
            async with _source(kind, place.url(""), hostile.deadline) as source:
                failure = await _failure(source.fetch(_meter(kind), DAY))
            # Where little time is given, a busy machine may need it for an answer before.
            assert len(place.requests) > len(before) or hostile.deadline == HASTY
        assert failure.meaning is hostile.meaning, failure.message
    async with receiver(hostile.answer) as place, _source(kind, place.url(""), hostile.deadline) as source:
        assert (await _failure(source.discover())).meaning is hostile.meaning


@KINDS
@pytest.mark.parametrize(
    "address", ["http://169.254.169.254", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"]
)
async def test_addresses_that_feeds_may_not_reach(kind: SourceKind, address: str) -> None:
    async with _source(kind, address, networks=()) as source:
        for asked in (source.fetch(_meter(kind), DAY), source.discover()):
            assert (await _failure(asked)).meaning is Meaning.FEED


@KINDS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
async def test_credentials_that_a_source_repeats_are_hidden(kind: SourceKind, status: int) -> None:
    own = _credentials(kind)
    for before in await _beginnings(kind):
        told = [*(answers(body) for body in before), _repeats(own, lambda: place.requests, status)]
        async with receiver(*told) as place, _source(kind, place.url("")) as source:
            failure = await _failure(source.fetch(_meter(kind), DAY), own)
        assert "(hidden)" in failure.message or "It says" not in failure.message
    told = [_repeats(own, lambda: place.requests, status)]
    async with receiver(*told) as place, _source(kind, place.url("")) as source:
        try:
            await source.discover()
        except SourceFailure as failure:
            _is_presentable(failure, own)


@KINDS
@pytest.mark.parametrize(
    "secret", ["kéy of ünicode", "line\r\nx-other: 1", "nul\0", "x" * 100_000, " ", "\ud7ff"]
)
async def test_credentials_of_any_characters(kind: SourceKind, secret: str) -> None:
    given = dict.fromkeys(kind.credentials, secret)
    refusal = answers({"error": "No."}, 401)
    async with receiver(refusal) as place, _source(kind, place.url(""), credentials=given) as source:
        failure = await _failure(source.discover(), given)
    assert failure.meaning in {Meaning.FEED, Meaning.RETRY}
    assert all("x-other" not in request.headers for request in place.requests)


def _repeats(own: Mapping[str, str], requests: Callable[[], list[Request]], status: int) -> Answer:
    """An error that repeats the last request: its headers, its body, and every secret as others write it."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        request = requests()[-1]
        heard = [*request.headers.values(), request.body.decode()]
        written = [form for one in own.values() for form in (one, quote(one, safe=""), one.upper())]
        told = orjson.dumps({"message": " ".join([*written, *heard])})
        # JSON that spells a letter of every secret in another way.
        await answers(told.replace(b"-", b"\\u002d"), status)(writer)

    return answer


SECRETS: Final = {
    "apiKey": "secret-key-5b1e/+7c",
    "username": "secret-reader@example.org",
    "password": 'secret-"word" 9f&+',
}


def _credentials(kind: SourceKind) -> dict[str, str]:
    return {name: SECRETS[name] for name in kind.credentials}


_recorded: dict[str, list[bytes]] = {}


async def _beginnings(kind: SourceKind) -> list[list[bytes]]:
    """The answers before the first request of fetching, and before the last one."""
    if kind.kind.name not in _recorded:
        _recorded[kind.kind.name] = await Conversation(kind, "Home of new tenants", DAY).answers()
    before = _recorded[kind.kind.name][:-1]
    return [[], before] if before else [[]]


def _meter(kind: SourceKind) -> FetchedMeter:
    return Conversation(kind, "Home of new tenants", DAY).meter


@asynccontextmanager
async def _source(
    kind: SourceKind,
    url: str,
    deadline: float = LONG,
    networks: Any = LOOPBACK,
    credentials: Mapping[str, str] | None = None,
) -> AsyncIterator[Source]:
    given = credentials or _credentials(kind)
    async with Transport(networks) as transport:
        exchange = Exchange(transport, url, TokenBucket(HASTE, 1_000), given.values(), deadline)
        yield kind.open(given, Conversation(kind, "Home", DAY).stand_in.settings, exchange)


async def _failure(asked: Any, credentials: Mapping[str, str] = SECRETS) -> SourceFailure:
    with pytest.raises(SourceFailure) as raised:
        await asked
    _is_presentable(raised.value, credentials)
    return raised.value


def _is_presentable(failure: SourceFailure, credentials: Mapping[str, str]) -> None:
    """A sentence of bounded length on one line, in which, and in whose causes, no secret is."""
    assert failure.message == str(failure)
    assert 0 < len(failure.message) < 600
    assert failure.message.isprintable()
    assert failure.message.endswith(".") or "It says: " in failure.message
    for told in _chain(failure):
        for secret in credentials.values():
            assert len(secret) < 3 or secret.casefold() not in told.casefold()
            assert len(secret) < 3 or quote(secret, safe="").casefold() not in told.casefold()


def _chain(failure: BaseException | None) -> Iterator[str]:
    while failure is not None:
        yield f"{failure!s} {failure!r}"
        failure = failure.__cause__ or (None if failure.__suppress_context__ else failure.__context__)


def _is_sound(found: Fetched) -> None:
    """The half-hours are those of the window, and none of them is both there and missing."""
    first, after = half_hour(DAY.start), half_hour(DAY.end)
    for channel, columns in found.readings.items():
        assert columns.starts
        assert first <= columns.starts[0] <= columns.starts[-1] < after
        missing = {
            at
            for one in found.missing
            if one.channel is channel
            for at in range(half_hour(one.start), half_hour(one.end))
        }
        assert missing.isdisjoint(columns.starts)
    for one in found.missing:
        assert DAY.start <= one.start < one.end <= DAY.end
        assert one.cause.isprintable()
        assert len(one.cause) < 300
