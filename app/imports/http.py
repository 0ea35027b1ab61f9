"""`POST /imports` takes a file; `GET /imports/{id}` tells how its import stands."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import orjson
from sqlalchemy import select
from sqlmodel import col
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.auth.actor import Actor, Scope, visible
from app.auth.authenticate import Authenticator
from app.core import failpoints
from app.core.clock import format_utc
from app.core.errors import ErrorCode, Forbidden, Refusal, Unauthenticated
from app.core.ids import is_id, new_id
from app.db.raw_statements import Script
from app.db.scripts import InTransaction
from app.graphql.context import Services
from app.graphql.http.body import BodyTooLarge
from app.graphql.http.parameters import parameters_of
from app.graphql.http.plain_json import PlainJson, access_refused, plain_error
from app.graphql.http.rates import Rates, TooManyRequests
from app.graphql.idempotency import MAX_KEY, Result
from app.graphql.mutations import run_once
from app.imports import actions, kept_files, previews
from app.imports.arrivals import Arrivals
from app.imports.enums import ImportStatus
from app.imports.kept_files import CHUNK_BYTES
from app.imports.models import FileImport
from app.imports.options import LONGEST, ImportOptions, parse_options
from app.imports.problems import printable
from app.imports.upload import FORM, MAX_BYTES, Upload
from app.imports.waiting import ImportWaits

MEDIA_TYPES: Final = (
    "text/csv",
    "text/plain",
    "text/tab-separated-values",
    "application/octet-stream",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    # The type that browsers on Windows give CSV where Excel is installed.
    "application/vnd.ms-excel",
    "application/xml",
    "text/xml",
    "application/atom+xml",
    "application/gzip",
    "application/x-gzip",
    "application/zip",
    "application/x-zip-compressed",
    FORM,
)
LONGEST_WAIT: Final = 60
_STATUSES: Final = {
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.LIMIT_REACHED: 429,
    ErrorCode.IDEMPOTENCY_KEY_REUSED: 409,
}


def routes(services: Services, authenticator: Authenticator, rates: Rates) -> list[BaseRoute]:
    endpoint = _Endpoint(services, authenticator, rates)
    return [
        Route("/imports", endpoint.take_file, methods=["POST"]),
        Route("/imports/{id}", endpoint.show, methods=["GET"]),
    ]


class _Endpoint:
    def __init__(self, services: Services, authenticator: Authenticator, rates: Rates) -> None:
        self._services = services
        self._authenticator = authenticator
        self._rates = rates
        self._waits = ImportWaits(self._show)
        self._arrivals = Arrivals()

    async def take_file(self, request: Request) -> Response:
        try:
            actor = await self._actor(request)
            actor.require(Scope.WRITE)
            return await self._take_file(request, actor)
        except (Unauthenticated, TooManyRequests, Forbidden) as error:
            return access_refused(error)
        except Refusal as error:
            headers = {"Retry-After": "10"} if error.code is ErrorCode.LIMIT_REACHED else {}
            status = _STATUSES.get(error.code, 400)
            return plain_error(status, error.code.value, error.message, **headers)
        except BodyTooLarge:
            message = f"A file has at most {MAX_BYTES} bytes; send it in parts."
            return plain_error(413, "TOO_LONG", message, Connection="close")

    async def show(self, request: Request) -> Response:
        try:
            actor = await self._actor(request)
        except (Unauthenticated, TooManyRequests) as error:
            return access_refused(error)
        text = parameters_of(request).get("wait", "0")
        if not text.isdecimal() or len(text) > 4:
            return plain_error(400, "INVALID", f"wait is a number of seconds, {LONGEST_WAIT} at most.")
        seconds, import_id = min(int(text), LONGEST_WAIT), request.path_params["id"]
        shown = await self._show(actor, import_id)
        if seconds and shown is not None and shown["status"] == ImportStatus.RUNNING.name:
            try:
                shown = await self._waits.until_ended(actor, import_id, seconds)
            except TooManyRequests as error:
                return access_refused(error)
        if shown is None:
            return plain_error(404, "NOT_FOUND", "There is no such file import; check the id.")
        return PlainJson(shown)

    async def _actor(self, request: Request) -> Actor:
        credential = self._rates.require_credential(
            request, "Send an API key in x-api-key or Authorization: Bearer."
        )
        actor = (await self._rates.authenticated(self._authenticator, credential, request)).actor
        self._rates.require(actor)
        return actor

    async def _show(self, actor: Actor, import_id: str) -> dict[str, Any] | None:
        if not is_id(import_id, "imp"):
            return None
        async with self._services.database.reading() as session:
            statement = visible(select(FileImport).where(col(FileImport.id) == import_id), actor)
            row: FileImport | None = (await session.execute(statement)).scalar_one_or_none()
            if row is None:
                return None
            preview = (await previews.load(session, [import_id]))[0]
        return as_json(row, preview)

    async def _take_file(self, request: Request, actor: Actor) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if media_type not in ("", *MEDIA_TYPES) or encoding not in ("identity", "gzip"):
            types = ", ".join(MEDIA_TYPES)
            return plain_error(
                415,
                "INVALID",
                "Send the file as it is or with the Content-Encoding gzip, and without a Content-Type or with one of "
                f"{types}.",
            )
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= MAX_KEY:
            raise Refusal(ErrorCode.TOO_LONG, f"An idempotency key has 1 to {MAX_KEY} characters.")
        options = parse_options(dict(parameters_of(request)))
        database = self._services.database
        await database.transact(lambda _: _allowed(actor, options))
        import_id, upload = new_id("imp"), Upload(request)
        try:
            with self._arrivals.of(actor.account_id) as arrived:
                sha256, size = await self._keep(import_id, upload, arrived)
            if not size:
                raise Refusal(
                    ErrorCode.REQUIRED, "The file is empty, or the request has none: send one with readings."
                )
            if options.file_name is None and upload.name is not None:
                options = options._replace(file_name=printable(upload.name[:LONGEST]))
            failpoints.reach("import.file_kept")
            result = await self._begin(actor, import_id, options, sha256, size, key)
        except BaseException:
            await asyncio.shield(kept_files.drop(database, [import_id]))
            raise
        taken = str(result["fileImportId"])
        if taken != import_id:
            # The same request came before, with its file.
            await kept_files.drop(database, [import_id])
        return PlainJson(result, 202, {"Location": f"/imports/{taken}"})

    async def _keep(self, import_id: str, upload: Upload, arrived: Callable[[int], None]) -> tuple[str, int]:
        """Puts the file into the database as it comes; gives its hash and its size."""
        database, digest = self._services.database, hashlib.sha256()
        buffer, number, size = bytearray(), 0, 0
        async for piece in upload.pieces():
            arrived(len(piece))
            digest.update(piece)
            size += len(piece)
            buffer += piece
            while len(buffer) >= CHUNK_BYTES:
                await kept_files.keep(database, import_id, number, bytes(buffer[:CHUNK_BYTES]))
                del buffer[:CHUNK_BYTES]
                number += 1
        if buffer:
            await kept_files.keep(database, import_id, number, bytes(buffer))
        return digest.hexdigest(), size

    async def _begin(
        self, actor: Actor, import_id: str, options: ImportOptions, sha256: str, size: int, key: str | None
    ) -> Result:
        given = [sha256, options.file_name, options.dry_run, options.on_problem.name, options.stored]
        input_hash = hashlib.sha256(orjson.dumps(given, option=orjson.OPT_SORT_KEYS)).hexdigest()

        def act(_: InTransaction) -> Script[Result]:
            # Other files have come since this upload began.
            yield from actions.require_room(actor)
            row = yield from actions.begin(actor, import_id, options, sha256, size)
            return {"fileImportId": row.id}

        return await run_once(self._services, actor, "POST /imports", key, input_hash, act)


def _allowed(actor: Actor, options: ImportOptions) -> Script[None]:
    yield from actions.require_room(actor)
    yield from actions.require_customer(actor, options)


def as_json(row: FileImport, preview: Any) -> dict[str, Any]:
    """The fields of FileImport."""
    return {
        "id": row.id,
        "fileName": row.file_name,
        "sha256": row.sha256,
        "bytes": row.size,
        "profile": row.profile,
        "status": row.status,
        "dryRun": row.dry_run,
        "progress": row.progress,
        "rowsRead": row.rows_read,
        "rowsRefused": row.rows_refused,
        "readingsAccepted": row.readings_accepted,
        "readingsChanged": row.readings_changed,
        "meterCount": row.meter_count,
        "problems": [
            {name: one[name] for name in ("line", "column", "file", "code", "message")}
            for one in row.problems
        ],
        "problemCount": row.problem_count,
        "roundedCount": row.rounded_count,
        "onProblem": row.on_problem,
        "detection": row.detection,
        "from": None if row.starts_at is None else format_utc(row.starts_at),
        "to": None if row.ends_at is None else format_utc(row.ends_at),
        "preview": preview,
        "error": row.error,
        "createdAt": format_utc(row.created_at),
        "completedAt": None if row.completed_at is None else format_utc(row.completed_at),
    }
