"""Stream tokens: short-lived, read-only credentials for browsers, which end with the key's secret that made them.

A token is `vw_stream_`, the payload and its signature, both in base64url. The payload holds the account, the key, the
customer that it is bound to, if any, its end, and the mark of the secret. Nothing is stored.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

import orjson

from app.core import clock
from app.core.crypto import Keyring, digest

PREFIX: Final = "vw_stream_"
_PURPOSE: Final = "stream token"
_SIGNATURE: Final = 32
MARK: Final = 16
"""Hex digits of a mark. Marks are signed, so they need not be hard to guess."""

MARKS_KEPT, MARK_WEIGHT = 256, 400
"""Cached marks, and the bytes of each."""

LONGEST_LIFE: Final = timedelta(days=1)
_SHAPE = re.compile(PREFIX + r"([A-Za-z0-9_-]{1,600})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class StreamToken:
    """The payload of a stream token."""

    account_id: str
    api_key_id: str
    customer_id: str | None
    expires_at: datetime
    # None in tokens of earlier versions.
    secret_mark: str | None = None


@lru_cache(MARKS_KEPT)
def mark_of(secret_hash: str) -> str:
    """Identifies one of a key's secrets without revealing its hash."""
    return digest(f"stream token {secret_hash}")[:MARK]


def make(keyring: Keyring, token: StreamToken) -> str:
    """The signed text of a token."""
    values: list[str | int | None] = [
        token.account_id, token.api_key_id, token.customer_id, clock.to_ms(token.expires_at)
    ]  # fmt: skip
    if token.secret_mark is not None:
        values.append(token.secret_mark)
    payload = _encode(orjson.dumps(values))
    return f"{PREFIX}{payload}.{_encode(keyring.sign(_PURPOSE, payload.encode(), _SIGNATURE))}"


def read(keyring: Keyring, text: str) -> StreamToken:
    """The payload of a token, expired or not. Raises ValueError unless one of the server's keys signed it."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ValueError("not the shape of a stream token")
    payload, signature = found.groups()
    # The signature covers the encoded payload, so that no second spelling of it counts.
    if not keyring.verifies(_PURPOSE, payload.encode(), _decode(signature)):
        raise ValueError("not a signature of ours")
    account_id, api_key_id, customer_id, expires_ms, *mark = orjson.loads(_decode(payload))
    return StreamToken(account_id, api_key_id, customer_id, clock.from_ms(expires_ms), *mark)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
