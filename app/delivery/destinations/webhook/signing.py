"""Standard Webhooks 1.0.0 signatures: `v1` with a shared secret, and beside it `v1a` with a key pair (Ed25519)."""

import base64
import binascii
import hmac
import secrets as random_source
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public part
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
NEW_SECRET_BYTES = 32
KEYS_KEPT, KEY_WEIGHT = 10_000, 400
"""Keys of each kind that are remembered ready for use, and the bytes of each, as measured."""
SECRET_BYTES = range(24, 65)
"""The key sizes that the specification allows."""


class SecretError(ValueError):
    """A signing secret that cannot be used. The message never repeats the secret."""


def new_secret() -> str:
    """A fresh secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(random_source.token_bytes(NEW_SECRET_BYTES)).decode("ascii")


def new_key_pair() -> tuple[str, str]:
    """A fresh private key, `whsk_` and the base64 of seed and public key, and the public key, `whpk_` and base64."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return (
        PRIVATE_PREFIX + base64.b64encode(private.private_bytes_raw() + public).decode("ascii"),
        PUBLIC_PREFIX + base64.b64encode(public).decode("ascii"),
    )


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


def sign(
    secrets: Sequence[str], message_id: str, timestamp: int, body: bytes, private_keys: Sequence[str] = ()
) -> str:
    """The `webhook-signature` header for exactly these bytes: a `v1,…` per active secret, then a `v1a,…` per key.

    `timestamp` is in seconds, as sent in `webhook-timestamp`. During a rotation both secrets and both keys are given,
    so that the receiver may change over at any moment. Raises SecretError for a bad secret or key or for no secret,
    and ValueError for an id with a dot, because the signed text `id.timestamp.body` would then have two readings.
    """
    if not secrets:
        raise SecretError("At least one signing secret is needed.")
    if not message_id or "." in message_id:
        raise ValueError("A message id is not empty and has no dot.")
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    shared = [_written("v1", hmac.digest(_shared(secret), content, "sha256")) for secret in secrets]
    return " ".join(shared + [_written("v1a", _private(key).sign(content)) for key in private_keys])


def _written(version: str, signature: bytes) -> str:
    return f"{version},{base64.b64encode(signature).decode('ascii')}"


_shared = lru_cache(maxsize=KEYS_KEPT)(decode_secret)


@lru_cache(maxsize=KEYS_KEPT)
def _private(key: str) -> Ed25519PrivateKey:
    """Reading a key costs as much as the signature made with it."""
    try:
        content = base64.b64decode(key.removeprefix(PRIVATE_PREFIX), validate=True)
        return Ed25519PrivateKey.from_private_bytes(content[:32])
    except (binascii.Error, ValueError):
        raise SecretError(f"A signing key is {PRIVATE_PREFIX} and base64.") from None
