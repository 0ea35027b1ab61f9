"""The record of one attempt to send a webhook or a mail."""

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

KEPT_BYTES = 16 * 1024
"""The part of an answer that is read and kept."""


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "SUCCEEDED"
    """The receiver took it: an HTTP status of 200 to 299, or the mail server's acceptance."""
    HTTP_STATUS = "HTTP_STATUS"
    """The receiver answered with another HTTP status."""
    TIMEOUT = "TIMEOUT"
    """The time for the attempt ran out."""
    DNS = "DNS"
    """The host's name has no address."""
    TLS = "TLS"
    """No secure connection came about, for instance for a bad certificate."""
    CONNECTION = "CONNECTION"
    """No connection came about, or it broke before an answer."""
    BLOCKED_ADDRESS = "BLOCKED_ADDRESS"
    """The host's address is none that webhooks may reach."""
    SMTP = "SMTP"
    """The mail server refused it."""


# Not frozen: the constructor of a frozen class takes several times as long.
@dataclass(slots=True)
class Attempt:
    """An attempt, ready to be stored.

    `started_at` is epoch milliseconds. `status` is the HTTP status or the SMTP reply code. `response_body` is
    the answer's text (the first 16 KB of an HTTP body; the SMTP reply), valid Unicode without NUL. `error` is
    a sentence for the account's users. `retry_after` is the header as it came. `enhanced_status` is RFC
    3463's code of an SMTP reply, such as `5.1.1`. `recipient_refused`: the server refused the recipient's
    address (RCPT TO), not the sender or the content. `request_headers` (JSON, secrets masked) and
    `request_digest` (of the body) describe a webhook's request.
    """

    started_at: int
    duration_ms: int
    outcome: AttemptOutcome
    status: int | None = None
    response_body: str | None = None
    error: str | None = None
    retry_after: str | None = None
    enhanced_status: str | None = None
    recipient_refused: bool = False
    request_headers: str | None = None
    request_digest: str | None = None

    @classmethod
    def not_made(cls, error: str = "The request could not be made.") -> Self:
        """The record of an attempt that a fault of ours prevented."""
        started_at = time.time_ns() // 1_000_000
        return cls(started_at, duration_ms=0, outcome=AttemptOutcome.CONNECTION, error=error)

    def without_answer(self) -> Self:
        """The same attempt without the receiver's answer."""
        error = None if self.outcome is AttemptOutcome.SUCCEEDED else "What was answered could not be stored."
        return replace(self, response_body=None, error=error)


class AttemptTimer:
    """Times an attempt from now on."""

    def __init__(self) -> None:
        self._started_at = time.time_ns() // 1_000_000
        self._begun = time.perf_counter()

    def ended(self, outcome: AttemptOutcome, error: str | None = None, **values: Any) -> Attempt:
        """The attempt, which ends now; `values` are further fields of `Attempt`."""
        duration_ms = round((time.perf_counter() - self._begun) * 1000)
        return Attempt(self._started_at, duration_ms, outcome, error=error, **values)
