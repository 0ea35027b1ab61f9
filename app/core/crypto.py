"""Signing, encryption and hashing with the deployment's secret keys.

`VOLTWIRE_SECRET_KEY` is a comma list: the first key signs and encrypts, all of them verify and decrypt. To replace a
key, put the new one in front, and drop the old one when nothing made with it is left. Every purpose derives a key of
its own (HKDF-SHA256), so that a signature for one purpose never counts for another.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_FORM: Final = (
    "keys of at least 16 characters each, separated by commas; best is one of 32 random bytes in base64"
)


class Keyring:
    """The deployment's keys, newest first."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys or any(len(key) < 16 for key in keys):
            raise ValueError(f"VOLTWIRE_SECRET_KEY: must be {KEY_FORM}.")
        self._keys = tuple(key.encode() for key in keys)
        self._fernet = MultiFernet(
            [Fernet(base64.urlsafe_b64encode(_derive(key, "encryption"))) for key in self._keys]
        )

    def sign(self, purpose: str, message: bytes, size: int = 32) -> bytes:
        """HMAC-SHA256 of the message, cut to `size` bytes."""
        return hmac.digest(_derive(self._keys[0], purpose), message, "sha256")[:size]

    def signatures(self, purpose: str, message: bytes, size: int = 32) -> list[bytes]:
        """The signatures of the message by each of the keys, to look up values that any of them signed."""
        return [hmac.digest(_derive(key, purpose), message, "sha256")[:size] for key in self._keys]

    def verifies(self, purpose: str, message: bytes, signature: bytes) -> bool:
        """Whether one of the keys made this signature; in constant time for each key."""
        return len(signature) >= 16 and any(
            hmac.compare_digest(one, signature) for one in self.signatures(purpose, message, len(signature))
        )

    def seal(self, purpose: str, message: bytes, context: bytes) -> bytes:
        """AES-SIV of the message, 16 bytes longer. Equal messages in one context seal to equal bytes.

        `context` is authenticated but not included: `unseal` needs it as well.
        """
        return _siv(self._keys[0], purpose).encrypt(message, [context])

    def unseal(self, purpose: str, sealed: bytes, context: bytes) -> bytes:
        """The message of sealed bytes. Raises ValueError when none of the keys sealed it for this context."""
        for key in self._keys:
            with suppress(InvalidTag):
                return _siv(key, purpose).decrypt(sealed, [context])
        raise ValueError("None of the keys in VOLTWIRE_SECRET_KEY opens this value.")

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text of a token. Raises ValueError when none of the keys decrypts it."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken as error:
            raise ValueError("None of the keys in VOLTWIRE_SECRET_KEY decrypts this value.") from error


@lru_cache(maxsize=64)
def _siv(key: bytes, purpose: str) -> AESSIV:
    return AESSIV(_derive(key, purpose))


@lru_cache(maxsize=256)
def _derive(key: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=f"voltwire {purpose}".encode()).derive(
        key
    )


def random_token(prefix: str) -> str:
    """A secret with 256 random bits, such as `vw_live_…`."""
    return prefix + secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """SHA-256 of a random token in hex, for storing it. A token of 256 random bits needs no salt."""
    return hashlib.sha256(token.encode()).hexdigest()
