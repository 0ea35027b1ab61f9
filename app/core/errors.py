"""Errors for users: each has a stable code and a sentence that says what to do.

There are two kinds. A `Refusal` is a broken rule of the domain: it becomes an entry of `userErrors`, and nothing has
changed. An `ApiError` ends the field or the whole request: it becomes a top-level GraphQL error with `extensions.code`.
Every other exception is a fault of the server and is masked.
"""

import enum
from typing import Any, ClassVar


class ErrorCode(enum.Enum):
    """The codes of userErrors."""

    REQUIRED = "REQUIRED"
    """A value is missing or blank, or cannot be cleared."""
    INVALID = "INVALID"
    """A value does not have the form that it needs."""
    TOO_LONG = "TOO_LONG"
    """A text or a list is longer than it may be."""
    OUT_OF_RANGE = "OUT_OF_RANGE"
    """A number or a time lies outside its bounds."""
    TAKEN = "TAKEN"
    """Another object has this value, which must be unique."""
    NOT_FOUND = "NOT_FOUND"
    """There is no such object in this account."""
    CONFLICT = "CONFLICT"
    """The object as it is now does not allow this."""
    INVALID_METER_NUMBER = "INVALID_METER_NUMBER"
    """A meter number has a wrong length, type or check digit."""
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - a code, not a password
    """The consent request has expired."""
    TOKEN_USED = "TOKEN_USED"  # noqa: S105 - a code, not a password
    """The consent request was decided already."""
    CONSENT_REQUIRED = "CONSENT_REQUIRED"
    """The meter has no valid consent."""
    URL_NOT_ALLOWED = "URL_NOT_ALLOWED"
    """A link has a scheme or leads to an address that is not allowed."""
    LIMIT_REACHED = "LIMIT_REACHED"
    """There are as many as there may be, or it was asked for too soon."""
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    """The idempotency key was used with another input within 24 hours."""


class Refusal(Exception):
    """A rule of the domain refuses: `Refusal(code, sentence, *path below input)`, indexes as strings."""

    def __init__(self, code: ErrorCode, message: str, *field: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = list(field)


class Refusals(Exception):
    """Several refusals of one input."""

    def __init__(self, refusals: list[Refusal]) -> None:
        super().__init__("; ".join(one.message for one in refusals))
        self.refusals = refusals


def not_found(what: str, *field: str) -> Refusal:
    """The same refusal for an object that does not exist and for one of another account."""
    return Refusal(ErrorCode.NOT_FOUND, f"There is no such {what}; check the id.", *field)


class ApiError(Exception):
    """Ends a field or a request with a top-level error."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 200

    def __init__(self, message: str, **extensions: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extensions = {"code": self.code, **extensions}


class Unauthenticated(ApiError):
    code = "UNAUTHENTICATED"
    status = 401


class Forbidden(ApiError):
    code = "FORBIDDEN"


class BadUserInput(ApiError):
    """`field` is the path below `input`, or the argument's name."""

    code = "BAD_USER_INPUT"


class CursorExpired(ApiError):
    """The log no longer holds the events after the cursor; `oldestCursor` is where it begins."""

    code = "CURSOR_EXPIRED"


class RateLimited(ApiError):
    code = "RATE_LIMITED"
    status = 429


class QueryTooComplex(ApiError):
    code = "QUERY_TOO_COMPLEX"


class PersistedQueryNotFound(ApiError):
    """The server knows no document with this hash: the client must send it along once."""

    code = "PERSISTED_QUERY_NOT_FOUND"


class OperationNotAllowed(ApiError):
    """The server runs only the documents on its operators' list."""

    code = "OPERATION_NOT_ALLOWED"


class CommandError(Exception):
    """A command fails; the message is for the operator's terminal."""
