"""Rules that several features share: lengths, mail addresses, links, ids."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from app.core.errors import ErrorCode, Refusal, Refusals

T = TypeVar("T")
Rule = Callable[[Any], Any]
"""Checks a value and gives the one to store. Raises Refusal or Refusals."""

MAX_NAME: Final = 200
MAX_TEXT: Final = 2000
MAX_EMAIL: Final = 254
MAX_URL: Final = 2048

# The addresses that mail servers of today accept, without quoting, comments or line ends. A domain has a dot, and its
# last label is no number; localhost is the exception.
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(
    rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-]{{1,64}}@(?=.{{1,190}}\Z)"
    rf"(?:(?:{_LABEL}\.)+(?!\d+\Z)(?=..){_LABEL}|(?i:localhost))"
)


def required_text(value: str, *field: str, most: int = MAX_NAME) -> str:
    """A text that must not be blank, stripped. Raises REQUIRED or TOO_LONG."""
    value = value.strip()
    if not value:
        raise Refusal(ErrorCode.REQUIRED, f"{field[-1]} must not be empty.", *field)
    if len(value) > most:
        raise Refusal(ErrorCode.TOO_LONG, f"{field[-1]} has at most {most} characters.", *field)
    return value


def optional_text(value: str | None, *field: str, most: int = MAX_TEXT) -> str | None:
    """A text that may be missing; blank counts as missing. Raises TOO_LONG."""
    if value is None or not value.strip():
        return None
    return required_text(value, *field, most=most)


def not_cleared(value: T | None, field: str) -> T:
    """The value of a field that cannot be cleared. Raises REQUIRED for null."""
    if value is None:
        raise Refusal(ErrorCode.REQUIRED, f"{field} cannot be cleared.", field)
    return value


def email(value: str, *field: str) -> str:
    """A mail address, its domain in lower case. Raises REQUIRED, TOO_LONG or INVALID."""
    value = required_text(value, *field, most=MAX_EMAIL)
    if not _EMAIL.fullmatch(value) or ".." in value or value.startswith(".") or ".@" in value:
        raise Refusal(
            ErrorCode.INVALID, f"{field[-1]} must be a mail address such as ada@example.com.", *field
        )
    local, _, domain = value.rpartition("@")
    return f"{local}@{domain.lower()}"


def link(value: str | None, *field: str) -> str | None:
    """An optional https link. Raises TOO_LONG or INVALID."""
    value = optional_text(value, *field, most=MAX_URL)
    if value is not None and not is_link(value, schemes=("https",)):
        raise Refusal(ErrorCode.INVALID, f"{field[-1]} must be an https:// link.", *field)
    return value


def redirect_url(value: str, *field: str) -> str:
    """A link for redirects: https, or http for this machine. Raises TOO_LONG or URL_NOT_ALLOWED."""
    value = required_text(value, *field, most=MAX_URL)
    loopback = is_link(value, schemes=("http",)) and urlsplit(value).hostname in (
        "localhost",
        "127.0.0.1",
        "::1",
    )
    if not loopback and not is_link(value, schemes=("https",)):
        raise Refusal(
            ErrorCode.URL_NOT_ALLOWED,
            f"{field[-1]} must be an https:// link (http only for localhost).",
            *field,
        )
    return value


def is_link(value: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in schemes
            and bool(parts.hostname)
            and parts.username is None
            and (parts.port is None or parts.port > 0)
            and not re.search(r"[\s\\\x00-\x1f\x7f]", value)
        )
    except ValueError:
        return False


def validate_all(**checks: Callable[[], Any]) -> dict[str, Any]:
    """The values of all checks. Raises Refusals with every wrong value, so that all can be corrected at once."""
    values, refused = {}, []
    for name, check in checks.items():
        try:
            values[name] = check()
        except Refusal as error:
            refused.append(error)
        except Refusals as error:
            refused.extend(error.refusals)
    if refused:
        raise Refusals(refused)
    return values


def validate_changes(rules: Mapping[str, Rule], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of changes, each checked by the rule of its name, if there is one. Raises Refusals."""
    return validate_all(**{name: partial(rules.get(name, _accept), value) for name, value in changes.items()})


def _accept(value: Any) -> Any:
    return value
