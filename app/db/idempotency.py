"""Stored successes of mutations that came with an idempotency key."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring
from app.db.types import Text, UtcDateTime

_INPUT: Final = "idempotent input"


class IdempotentMutation(SQLModel, table=True):
    """A success. The row is the first write of the mutation's transaction, so that a concurrent twin waits for it."""

    __tablename__ = "idempotent_mutations"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    mutation: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    input_hash: str = Field(sa_type=Text)
    payload_encrypted: str | None = Field(default=None, sa_type=Text)
    # The customer that the payload is about, with whom it is redacted.
    customer_id: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime, index=True)

    def has_input(self, keyring: Keyring, input_hash: str) -> bool:
        """Whether the input with this hash was stored, even if redaction left only a keyed hash of it."""
        keyed = (one.hex() for one in keyring.signatures(_INPUT, input_hash.encode()))
        return self.input_hash == input_hash or self.input_hash in keyed


async def redact_successes(
    session: AsyncSession,
    keyring: Keyring,
    account_id: str,
    customer_id: str,
    personal: Mapping[str, Mapping[str, Any]],
) -> None:
    """Redacts the stored payloads about a deleted customer, so that a repeated request still has its answer.

    `personal` has the replacements of personal columns by the name of a row's class.
    """
    statement = select(IdempotentMutation).where(
        col(IdempotentMutation.account_id) == account_id, col(IdempotentMutation.customer_id) == customer_id
    )
    rows = (await session.exec(statement.with_for_update())).all()
    stored = [row.payload_encrypted or "" for row in rows]
    # In a thread, because there may have been thousands of requests about the customer in a day.
    payloads = await asyncio.to_thread(lambda: [_redacted(keyring, personal, one) for one in stored])
    for row, payload in zip(rows, payloads, strict=True):
        row.payload_encrypted = payload
        # Names and addresses can be guessed from a hash without a key.
        row.input_hash = keyring.sign(_INPUT, row.input_hash.encode()).hex() if payload else ""
    await session.flush()


def _redacted(keyring: Keyring, personal: Mapping[str, Mapping[str, Any]], stored: str) -> str | None:
    """The payload with personal columns replaced; None where its key or the replacements are missing."""
    try:
        payload = orjson.loads(keyring.decrypt(stored))
        for value in payload.values():
            if isinstance(value, dict) and "row" in value:
                value["values"].update(personal[value["row"]])
    except (KeyError, ValueError):
        return None
    return keyring.encrypt(orjson.dumps(payload).decode())
