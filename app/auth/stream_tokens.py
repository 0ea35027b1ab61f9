"""Stream tokens: short-lived, read-only, signed, made for browsers by a key and dead when that key is.

A token is `vw_stream_`, the payload and its signature, both in base64url. The payload names the account, the key, the
customer it is bound to, if any, and when it ends. Nothing is stored.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson

from app import clock
from app.crypto import Keyring

PREFIX: Final = "vw_stream_"
_PURPOSE: Final = "stream token"
_SIGNATURE: Final = 32
_SHAPE = re.compile(PREFIX + r"([A-Za-z0-9_-]{1,600})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class StreamToken:
    """What a stream token says."""

    account_id: str
    api_key_id: str
    customer_id: str | None
    expires_at: datetime


def make(keyring: Keyring, token: StreamToken) -> str:
    """The signed text of a token."""
    values = [token.account_id, token.api_key_id, token.customer_id, clock.to_ms(token.expires_at)]
    payload = _encode(orjson.dumps(values))
    return f"{PREFIX}{payload}.{_encode(keyring.sign(_PURPOSE, payload.encode(), _SIGNATURE))}"


def read(keyring: Keyring, text: str) -> StreamToken:
    """What a token says, whether or not its time is over. Raises ValueError for one that none of our keys signed."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ValueError("not the shape of a stream token")
    payload, signature = found.groups()
    # What was signed is the encoded payload, so that no second spelling of it counts.
    if not keyring.verifies(_PURPOSE, payload.encode(), _decode(signature)):
        raise ValueError("not a signature of ours")
    account_id, api_key_id, customer_id, expires_ms = orjson.loads(_decode(payload))
    return StreamToken(account_id, api_key_id, customer_id, clock.from_ms(expires_ms))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64url") from error
