"""Mutations run once for an idempotency key.

A successful result is stored encrypted, rows and secrets included, and the same input gets it again for 24 hours.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import orjson
import strawberry
from sqlalchemy import bindparam, delete, select, update
from sqlmodel import SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.db.database import run_script
from app.db.idempotency import IdempotentMutation
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.sql import Sql
from app.graphql.list_inputs import ConvertedList
from app.graphql.nodes import model_named, prefix_of

Result = dict[str, Any]

IDEMPOTENCY_WINDOW = timedelta(hours=24)
MAX_KEY = 255
CLAIMS: Final = 5
"""Attempts to insert the row of a key, each after another transaction had deleted the row in its way."""

_ROWS: Final = Table(IdempotentMutation)
_PLACE: Final = ("account_id", "mutation", "key")
_AT_PLACE: Final = [col(getattr(IdempotentMutation, name)) == bindparam(f"its_{name}") for name in _PLACE]
_FORGET: Final = delete(_ROWS.table).where(
    *_AT_PLACE, col(IdempotentMutation.created_at) < bindparam("expired_at")
)
_CLAIM: Final = Sql("""
    INSERT INTO idempotent_mutations (account_id, mutation, key, input_hash, created_at)
    VALUES (:its_account_id, :its_mutation, :its_key, :input_hash, @instant(:now))
    ON CONFLICT DO NOTHING RETURNING key
""")
_FIND: Final = select(*_ROWS.columns).where(*_AT_PLACE)
_STORE: Final = (
    update(_ROWS.table)
    .where(*_AT_PLACE)
    .values(payload_encrypted=bindparam("payload_encrypted"), customer_id=bindparam("customer_id"))
)


@dataclass(frozen=True)
class Once:
    """A request with an idempotency key, by which it is run once per account and mutation."""

    keyring: Keyring
    account_id: str
    mutation: str
    key: str
    input_hash: str

    def run(self, act: Callable[[], Script[Result]]) -> Script[Result]:
        """The stored result of the same request, or that of the script, which is stored. Raises Refusal."""
        stored = yield from self._claim()
        if stored is not None:
            return stored
        result = yield from act()
        yield from self._store(result)
        return result

    async def run_in(self, session: AsyncSession, act: Callable[[], Awaitable[Result]]) -> Result:
        """The same for an action that takes a session."""
        stored = await run_script(session, self._claim())
        if stored is not None:
            return stored
        result = await act()
        # Values that the database fills in are read before the result is stored.
        await session.flush()
        await run_script(session, self._store(result))
        return result

    @property
    def _place(self) -> dict[str, Any]:
        return {"its_account_id": self.account_id, "its_mutation": self.mutation, "its_key": self.key}

    def _claim(self) -> Script[Result | None]:
        """Inserts the row of the key; if there is one, waits for its transaction and gives the stored result."""
        now = clock.now()
        yield _FORGET, {**self._place, "expired_at": now - IDEMPOTENCY_WINDOW}
        given = {**self._place, "input_hash": self.input_hash, "now": clock.to_ms(now)}
        for _ in range(CLAIMS):
            if (yield _CLAIM, given):
                return None
            if found := (yield _FIND, self._place):
                break
        else:
            raise Refusal(
                ErrorCode.CONFLICT, "This was changed by another request at the same time; try again."
            )
        return self._result_of(_ROWS.row(found[0]))

    def find(self) -> Script[Result | None]:
        """The stored result of the same request, None if there is none."""
        found = yield _FIND, self._place
        if not found or _ROWS.row(found[0]).created_at < clock.now() - IDEMPOTENCY_WINDOW:
            return None
        return self._result_of(_ROWS.row(found[0]))

    def _result_of(self, row: IdempotentMutation) -> Result | None:
        if not row.has_input(self.keyring, self.input_hash):
            raise Refusal(
                ErrorCode.IDEMPOTENCY_KEY_REUSED,
                "This idempotency key was used with another input; take a new key for a new request.",
                "idempotencyKey",
            )
        if row.payload_encrypted is None:
            return None
        stored = orjson.loads(self.keyring.decrypt(row.payload_encrypted))
        return {name: _restored(value) for name, value in stored.items()}

    def _store(self, result: Result) -> Script[None]:
        stored = {name: _stored(value) for name, value in result.items()}
        payload = self.keyring.encrypt(orjson.dumps(stored).decode())
        values = {"payload_encrypted": payload, "customer_id": _customer_of(result)}
        yield _STORE, self._place | values


def key_of(input: Any) -> str | None:
    """The idempotency key of an input. Raises Refusal."""
    key = getattr(input, "idempotency_key", None)
    if key is None or key is strawberry.UNSET:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise Refusal(
            ErrorCode.TOO_LONG if key else ErrorCode.REQUIRED,
            f"An idempotency key has 1 to {MAX_KEY} characters.",
            "idempotencyKey",
        )
    return str(key)


def hash_of(input: Any) -> str:
    """A hash of the input, its idempotency key left out."""
    return hashlib.sha256(orjson.dumps(_plain(input), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, ConvertedList):
        return value.plain()
    if dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {
            name: _plain(one)
            for name, one in fields.items()
            if one is not strawberry.UNSET and name != "idempotency_key"
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, enum.Enum):
        return value.name
    return value


def _customer_of(result: Result) -> str | None:
    """The id of the customer that a row of the result is, or belongs to."""
    rows = [value for value in result.values() if isinstance(value, SQLModel)]
    ids = [row.id if prefix_of(type(row)) == "cus" else getattr(row, "customer_id", None) for row in rows]  # type: ignore[attr-defined]
    return next(filter(None, ids), None)


def _stored(value: Any) -> Any:
    if isinstance(value, SQLModel):
        return {"row": type(value).__name__, "values": value.model_dump(mode="json")}
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, date | enum.Enum):
        raise TypeError(f"a payload cannot store {value!r}")
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and "row" in value:
        return model_named(value["row"]).model_validate(value["values"])
    if isinstance(value, dict) and "datetime" in value:
        return datetime.fromisoformat(value["datetime"])
    return value
