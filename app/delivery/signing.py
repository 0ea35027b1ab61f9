"""Standard Webhooks 1.0.0 signatures (symmetric, `v1`)."""

import base64
import binascii
import hmac
import secrets as random_source
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public part
NEW_SECRET_BYTES = 32
SECRET_BYTES = range(24, 65)
"""The key sizes that the specification allows."""


class SecretError(ValueError):
    """A signing secret that cannot be used. The message never repeats the secret."""


def new_secret() -> str:
    """A fresh secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(random_source.token_bytes(NEW_SECRET_BYTES)).decode("ascii")


def decode_secret(secret: str) -> bytes:
    """The key inside a `whsec_…` secret: 24 to 64 bytes. Raises SecretError."""
    if not secret.startswith(SECRET_PREFIX):
        raise SecretError(f"A signing secret starts with {SECRET_PREFIX}.")
    try:
        key = base64.b64decode(secret[len(SECRET_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise SecretError(f"After {SECRET_PREFIX} a signing secret is base64.") from None
    if len(key) not in SECRET_BYTES:
        raise SecretError(f"A signing secret holds 24 to 64 bytes; this one holds {len(key)}.")
    return key


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header for exactly these bytes: one `v1,…` per active secret, space-separated.

    `timestamp` is in seconds, as sent in `webhook-timestamp`. During a rotation both secrets are given, so
    that the receiver may change over at any moment. Raises SecretError for a bad secret or for none, and
    ValueError for an id with a dot, because the signed text `id.timestamp.body` would then have two readings.
    """
    if not secrets:
        raise SecretError("At least one signing secret is needed.")
    if not message_id or "." in message_id:
        raise ValueError("A message id is not empty and has no dot.")
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(_signature(decode_secret(secret), content) for secret in secrets)


def _signature(key: bytes, content: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode("ascii")
