"""DKIM signatures (RFC 6376): rsa-sha256 over relaxed headers and body.

Own mails are ASCII with CRLF and have each header once, so that little of the RFC is needed. OpenSSL signs: an RSA
signature in Python, as dkimpy makes it, takes twenty times as long and holds up all other threads meanwhile.
"""

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.core.settings import Settings

SIGNED_HEADERS: Final = (
    "from",
    "to",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "auto-submitted",
    # RFC 8058 counts a one-click unsubscribe only if both of these are signed.
    "list-unsubscribe",
    "list-unsubscribe-post",
)

_NAME: Final = "DKIM-Signature"
_SPACES: Final = re.compile(rb"[ \t]+")
_TRAILING: Final = re.compile(rb"[ \t]+(?=\r\n|\Z)")
_FOLD: Final = re.compile(rb"\r\n(?=[ \t])")
_NAMES_IN_LINE: Final = 4
_COLUMNS: Final = 72


class DkimError(ValueError):
    """The DKIM settings cannot be used; the message says which and never shows the key."""


@dataclass(frozen=True, slots=True)
class Dkim:
    """A DKIM signer. Make it with `load_dkim`."""

    domain: str
    selector: str
    key: RSAPrivateKey = field(repr=False)

    def sign(self, content: bytes) -> bytes:
        """The message with a DKIM-Signature in front, over all headers of SIGNED_HEADERS in it.

        Takes milliseconds: call it in a thread.
        """
        head, _, body = content.partition(b"\r\n\r\n")
        headers = _headers(head)
        signed = [name for name in SIGNED_HEADERS if name in headers]
        unsigned = self._unsigned(signed, body)
        given = b"".join(_relaxed(name, headers[name]) + b"\r\n" for name in signed)
        signature = self.key.sign(given + _relaxed(_NAME, unsigned.encode()), PKCS1v15(), hashes.SHA256())
        return f"{_NAME}:{unsigned}{_lines(_base64(signature))}\r\n".encode() + content

    def _unsigned(self, signed: list[str], body: bytes) -> str:
        """The header's value without the signature."""
        rows = [":".join(signed[at : at + _NAMES_IN_LINE]) for at in range(0, len(signed), _NAMES_IN_LINE)]
        names = ":\r\n  ".join(rows)
        digest = _base64(hashlib.sha256(_relaxed_body(body)).digest())
        return (
            f" v=1; a=rsa-sha256; c=relaxed/relaxed; d={self.domain};\r\n"
            f" s={self.selector}; t={int(time.time())};\r\n"
            f" h={names};\r\n bh={digest};\r\n b="
        )


def signer_of(settings: Settings) -> Dkim | None:
    """The signer that the settings name, if they name one: all three of them, or none. Raises DkimError."""
    if settings.dkim_domain is None or settings.dkim_selector is None or settings.dkim_key is None:
        return None
    return load_dkim(settings.dkim_domain, settings.dkim_selector, settings.dkim_key)


def load_dkim(domain: str, selector: str, key: str) -> Dkim:
    """`key` is an RSA private key in PEM, or the path of a file with one. Raises DkimError."""
    try:
        pem = key.encode() if "-----BEGIN" in key else Path(key).read_bytes()
    except OSError as error:
        raise DkimError(f"The DKIM key file cannot be read: {error.strerror}.") from None
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise DkimError("The DKIM key is not an unencrypted private key in PEM.") from None
    if not isinstance(private, RSAPrivateKey) or private.key_size < 1024:
        raise DkimError("The DKIM key is not an RSA key of 1024 bits or more.")
    return Dkim(domain, selector, private)


def _headers(head: bytes) -> Mapping[str, bytes]:
    """The raw values, still folded, by lower-case name."""
    found = {}
    for line in re.split(rb"\r\n(?![ \t])", head):
        name, _, value = line.partition(b":")
        found[name.decode().lower()] = value
    return found


def _relaxed(name: str, value: bytes) -> bytes:
    """A header in canonical form, without its line end: unfolded, its white space folded (RFC 6376, 3.4.2)."""
    return name.lower().encode() + b":" + _SPACES.sub(b" ", _FOLD.sub(b"", value)).strip(b" ")


def _relaxed_body(body: bytes) -> bytes:
    """The body in canonical form: white space folded, none at the end of lines, no empty lines at the end (3.4.4)."""
    lines = _TRAILING.sub(b"", _SPACES.sub(b" ", body)).rstrip(b"\r\n")
    return lines + b"\r\n" if lines else b""


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _lines(text: str) -> str:
    """A long value in lines; verifiers ignore the breaks."""
    return "\r\n  ".join(text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS))
