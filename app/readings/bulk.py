"""`POST /readings` records up to 100,000 rows in one request, all or nothing."""

import asyncio
import hashlib
import zlib
from collections.abc import Generator
from typing import Any, Final, TypeVar

from sqlalchemy import bindparam, select
from sqlmodel import col
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.auth.actor import Actor, Scope, Scoped
from app.auth.authenticate import Authenticator
from app.core import clock
from app.core.errors import Forbidden, Refusal, Refusals, Unauthenticated
from app.core.ids import is_id
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.scripts import InTransaction
from app.graphql.context import Services
from app.graphql.http.body import BodyTooLarge, read_body
from app.graphql.http.plain_json import PlainJson, access_refused, plain_error
from app.graphql.http.rates import Rates, TooManyRequests
from app.graphql.idempotency import Result
from app.graphql.mutations import run_once
from app.meters.models import Meter
from app.readings import actions, uploads
from app.readings.actions import ConsentRequired
from app.readings.enums import ReadingChannel
from app.readings.packing import pack, unite, unpack
from app.readings.rows import RowProblem, Upload, UploadRefused

MAX_BYTES = 32 * 1024 * 1024
MAX_MEMBERS = 100
MEDIA_TYPES = ("text/csv", "application/x-ndjson")

T = TypeVar("T")


def routes(services: Services, authenticator: Authenticator, rates: Rates) -> list[BaseRoute]:
    async def record(request: Request) -> Response:
        try:
            actor = await _actor(request, authenticator, rates)
        except (Unauthenticated, TooManyRequests, Forbidden) as error:
            return access_refused(error)
        return await _record(services, turns, request, actor)

    turns = asyncio.Lock()
    return [Route("/readings", record, methods=["POST"])]


async def _actor(request: Request, authenticator: Authenticator, rates: Rates) -> Actor:
    """Authenticates and counts a request. Raises Unauthenticated, Forbidden, TooManyRequests."""
    credential = rates.require_credential(request, "Send an API key in x-api-key or Authorization: Bearer.")
    actor = (await rates.authenticated(authenticator, credential, request)).actor
    rates.require(actor)
    actor.require(Scope.WRITE)
    return actor


async def _record(services: Services, turns: asyncio.Lock, request: Request, actor: Actor) -> Response:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if media_type not in MEDIA_TYPES or encoding not in ("identity", "gzip"):
        return plain_error(
            415, "INVALID", f"Send {' or '.join(MEDIA_TYPES)}, plain or with Content-Encoding: gzip."
        )
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 255:
        return plain_error(400, "TOO_LONG", "An idempotency key has 1 to 255 characters.")
    try:
        content = await read_body(request, MAX_BYTES)
        if encoding == "gzip":
            content = await asyncio.to_thread(_gunzip, content)
    except BodyTooLarge:
        return plain_error(
            413, "TOO_LONG", f"Send at most {MAX_BYTES} bytes at once, unpacked.", Connection="close"
        )
    except zlib.error:
        return plain_error(400, "INVALID", "The body is not gzip.")
    try:
        upload = await _in_turns(turns, uploads.parse(content, media_type, clock.now()))
        input_hash = "" if key is None else await asyncio.to_thread(_hash, content, media_type)
        result = await run_once(
            services,
            actor,
            "POST /readings",
            key,
            input_hash,
            lambda transaction: _write(transaction, actor, upload),
        )
    except UploadRefused as error:
        problems = [{"line": one.line, "code": one.code, "message": one.message} for one in error.problems]
        return PlainJson({"errors": problems}, 422)
    except Refusal as error:
        # A refusal of the whole upload is reported at its first line.
        return PlainJson({"errors": [{"line": 1, "code": error.code.value, "message": error.message}]}, 422)
    return PlainJson(result)


async def _in_turns(turns: asyncio.Lock, work: Generator[None, None, T]) -> T:
    """Does some work in the loop: other requests come between its parts, and so do the parts of other uploads.

    In a thread it would hold Python's lock for five milliseconds each time that another request needs it.
    """
    while True:
        async with turns:
            try:
                next(work)
            except StopIteration as end:
                value: T = end.value
                return value
            await asyncio.sleep(0)


def _hash(content: bytes, media_type: str) -> str:
    found = hashlib.sha256(media_type.encode() + b"\n")
    found.update(content)
    return found.hexdigest()


def _gunzip(content: bytes) -> bytes:
    """Unpacks a gzip body of at most MAX_MEMBERS whole members. Raises BodyTooLarge at MAX_BYTES, or zlib.error."""
    unpacked = bytearray()
    left = content
    # Each member copies the rest of the body, so thousands of tiny members would take minutes.
    for _ in range(MAX_MEMBERS):
        if not left:
            return bytes(unpacked)
        member = zlib.decompressobj(wbits=31)
        unpacked += member.decompress(left, MAX_BYTES + 1 - len(unpacked))
        if len(unpacked) > MAX_BYTES:
            raise BodyTooLarge
        if not member.eof:
            raise zlib.error("truncated")
        left = member.unused_data
    if left:
        raise zlib.error("too many members")
    return bytes(unpacked)


def _write(transaction: InTransaction, actor: Actor, upload: Upload) -> Script[Result]:
    days, lines = yield from _resolve(actor, upload)
    meters = yield from actions.lock_meters(actor, lines)
    try:
        changed = yield from actions.write_channels(transaction, meters, days)
    except Refusals as refusals:
        raise UploadRefused(
            sorted(
                (
                    RowProblem(lines[one.meter_id], one.code.value, one.message)
                    for one in refusals.refusals
                    if isinstance(one, ConsentRequired)
                ),
                key=lambda one: one.line,
            )
        ) from None
    return {"accepted": upload.count, "changed": changed, "meters": len(meters)}


def _resolve(
    actor: Actor, upload: Upload
) -> Script[tuple[dict[ReadingChannel, dict[str, dict[int, bytes]]], dict[str, int]]]:
    """Packed days by channel and meter id, and first lines by meter id.

    Raises UploadRefused for unknown meters and ambiguous numbers.
    """
    ids = yield from _known(
        actor, _BY_ID, [text for kind, text, _ in upload.days if kind == "id" and is_id(text, "mtr")]
    )
    by_number = yield from _known(
        actor, _BY_NUMBER, [text for kind, text, _ in upload.days if kind == "number"]
    )
    by_channel: dict[ReadingChannel, dict[str, dict[int, bytes]]] = {}
    lines: dict[str, int] = {}
    problems: list[RowProblem] = []
    for (kind, text, channel), days in upload.days.items():
        line = upload.lines[kind, text, channel]
        found = (ids if kind == "id" else by_number).get(text, [])
        if len(found) != 1:
            problems.append(_unresolved(line, found))
            continue
        meter_id = found[0]
        known = by_channel.setdefault(channel, {}).get(meter_id, {})
        try:
            by_channel[channel][meter_id] = _united(known, days)
        except ValueError:
            problems.append(
                RowProblem(
                    line, "INVALID", "A half-hour of this meter is given twice, by its id and by its number."
                )
            )
        lines[meter_id] = min(line, lines.get(meter_id, line))
    if problems:
        raise UploadRefused(sorted(problems, key=lambda one: one.line))
    return by_channel, lines


def _united(one: dict[int, bytes], other: dict[int, bytes]) -> dict[int, bytes]:
    """The days of both. Raises ValueError if they have a half-hour in common."""
    shared = {day: pack(unite(unpack(one[day]), unpack(other[day]))) for day in one.keys() & other.keys()}
    return {**one, **other, **shared}


def _unresolved(line: int, found: list[str]) -> RowProblem:
    if found:
        return RowProblem(
            line, "CONFLICT", "Several customers have a meter with this number: give its meter_id."
        )
    return RowProblem(line, "NOT_FOUND", "There is no such meter; check the id or number.")


def _known(actor: Actor, statement: Scoped, texts: list[str]) -> Script[dict[str, list[str]]]:
    """Ids of the actor's meters by their value of a column."""
    texts = list(dict.fromkeys(texts))
    known: dict[str, list[str]] = {}
    for index in range(0, len(texts), actions.METERS_PER_STATEMENT):
        chunk = texts[index : index + actions.METERS_PER_STATEMENT]
        for text, meter_id in (yield statement.by(actor, texts=pad_to_power_of_two(chunk))):
            known.setdefault(text, []).append(meter_id)
    return known


def _meters_by(column: Any) -> Scoped:
    named = select(col(column), col(Meter.id)).where(col(column).in_(bindparam("texts", expanding=True)))
    return Scoped(named)


_BY_ID: Final = _meters_by(Meter.id)
_BY_NUMBER: Final = _meters_by(Meter.number)
