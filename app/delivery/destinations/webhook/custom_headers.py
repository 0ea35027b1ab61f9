"""An account's own headers on its webhooks: the rules for them, and their masked values."""

import re
from collections.abc import Mapping
from typing import Any, Final

from app.core.errors import ErrorCode, Refusal, Refusals

MAX_HEADERS: Final = 20
MAX_VALUE: Final = 2000
MASK: Final = "••••"
_SHOWN: Final = 4
_LONG_ENOUGH: Final = 16

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# Headers that Voltwire sets itself, and headers of the connection rather than the message.
RESERVED: Final = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "date",
        "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent", "via",
    }
)  # fmt: skip
RESERVED_PREFIXES: Final = ("webhook-", "voltwire-", "proxy-", "sec-")


def checked_headers(headers: Any) -> dict[str, str] | None:
    """Headers as JSON from names to values, names in lower case; None for none.

    Raises INVALID, TOO_LONG and REQUIRED, each at the header's name.
    """
    if headers is None:
        return None
    if not isinstance(headers, dict):
        raise Refusal(ErrorCode.INVALID, 'headers is an object such as {"x-api-key": "…"}.', "headers")
    if len(headers) > MAX_HEADERS:
        raise Refusal(ErrorCode.TOO_LONG, f"An endpoint has at most {MAX_HEADERS} headers.", "headers")
    refusals = [refusal for name, value in headers.items() if (refusal := _refusal(name, value)) is not None]
    found = {name.lower(): value.strip() for name, value in headers.items()} if not refusals else {}
    if not refusals and len(found) < len(headers):
        refusals = [Refusal(ErrorCode.INVALID, "Two headers differ in upper and lower case only.", "headers")]
    if refusals:
        raise Refusals(refusals)
    return found or None


def masked(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """The same with masked values, of which an administrator can tell which secret they are."""
    if headers is None:
        return None
    return {
        name: MASK + (value[-_SHOWN:] if len(value) >= _LONG_ENOUGH else "")
        for name, value in headers.items()
    }


def _refusal(name: str, value: Any) -> Refusal | None:
    if not _NAME.fullmatch(name):
        return Refusal(ErrorCode.INVALID, "This is not the name of an HTTP header.", "headers", name)
    lower = name.lower()
    if lower in RESERVED or lower.startswith(RESERVED_PREFIXES):
        return Refusal(ErrorCode.INVALID, f"{name} is set by Voltwire; leave it out.", "headers", name)
    if not isinstance(value, str) or not value.strip():
        return Refusal(ErrorCode.REQUIRED, f"{name} needs a text as its value.", "headers", name)
    if len(value) > MAX_VALUE:
        return Refusal(ErrorCode.TOO_LONG, f"{name} has at most {MAX_VALUE} characters.", "headers", name)
    if MASK in value:
        return Refusal(
            ErrorCode.INVALID,
            f"{name} is masked here: send its real value, or leave headers out.",
            "headers",
            name,
        )
    if not _VALUE.fullmatch(value.strip()):
        return Refusal(ErrorCode.INVALID, f"{name} must be printable ASCII on one line.", "headers", name)
    return None
