"""What one attempt was: the record that a webhook POST and a mail both leave, whatever happened."""

import codecs
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

KEPT_BYTES = 16 * 1024
"""How much of an answer is read and kept."""

_KEPT_ERROR_CHARACTERS = 500


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


@dataclass(frozen=True, slots=True)
class Exchange:
    """One attempt, ready to be stored.

    `started_at` is epoch milliseconds. `status` is the HTTP status or the SMTP reply code. `response_body` is
    the answer's text (the first 16 KB of an HTTP body; the SMTP reply), valid Unicode without NUL. `error` is
    a sentence for the account's users. `retry_after` is the header as it came. `enhanced_status` is RFC
    3463's code of an SMTP reply, such as `5.1.1`. `recipient_refused`: what was refused is the recipient's
    address (RCPT TO), and nothing else of the mail. `request_headers` (JSON, secrets masked) and
    `request_digest` (of the body) tell what a webhook sent.
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

    def without_answer(self) -> Self:
        """The same attempt without a word of what its receiver said."""
        error = None if self.outcome is AttemptOutcome.SUCCEEDED else "What was answered could not be stored."
        return replace(self, response_body=None, error=error)


def impossible(error: str = "The request could not be made.") -> Exchange:
    """What is recorded when a fault of ours kept an attempt from being made."""
    return Exchange(
        started_at=time.time_ns() // 1_000_000,
        duration_ms=0,
        outcome=AttemptOutcome.CONNECTION,
        error=error,
    )


def storable_text(data: bytes, *, cut: bool = False) -> str:
    """Any bytes as text that a database takes: bad UTF-8 replaced, NUL removed.

    `cut` says that more followed, so that a character split by the bound is dropped and not replaced.
    """
    if not data:
        return ""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not cut)
    return text.replace("\0", "")


def storable_line(text: str) -> str:
    """Foreign text for use inside a sentence: one printable line of 500 characters at most."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:_KEPT_ERROR_CHARACTERS]
