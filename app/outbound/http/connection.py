"""A connection to a receiver: HTTP/1.1 over the loop's sockets, one exchange at a time.

Own code, since every part of an answer is bounded here: head, body, bytes on the wire, time. httptools parses. Nothing
is decompressed, and no redirect, cookie or upgrade is followed. `./scripts/bench delivery` shows the speed.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools

from app.outbound.attempt import AttemptOutcome
from app.outbound.text import quotable

LONGEST_HEAD = 64 * 1024
"""Bytes of an answer before its body; no honest receiver sends more."""

WIRE_SHARE = 8
"""Bytes on the wire for each byte of a body that is kept: framing, such as chunks of one byte, counts as well."""

INVALID = "The receiver did not answer in valid HTTP."
_SWITCHING_PROTOCOLS = 101


class ExchangeFailed(Exception):
    """The exchange brought no answer; the message is a sentence for the account's users."""

    outcome = AttemptOutcome.CONNECTION


class NotConnected(ExchangeFailed):
    """No connection came about: nothing was sent."""


class NameUnknown(NotConnected):
    outcome = AttemptOutcome.DNS


class NotEncrypted(NotConnected):
    outcome = AttemptOutcome.TLS


class Broken(ExchangeFailed):
    """The connection was lost before the answer."""


class NoAnswer(ExchangeFailed):
    """The receiver closed the connection without an answer, or did not answer in HTTP."""


@dataclass(slots=True)
class Answer:
    """A receiver's answer, filled in as it comes.

    `status` is 0 until the head is complete. `flaw` says why the body is incomplete: the time was up, the connection
    broke, or more would have followed (`is_cut`).
    """

    status: int = 0
    reason: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    is_cut: bool = False
    flaw: Exception | None = None

    def header(self, name: bytes) -> str | None:
        """The first header of this name (in lower case) as a printable line."""
        for given, value in self.headers:
            if given.lower() == name:
                return quotable(value.decode("utf-8", "surrogateescape"))
        return None


class HttpConnection(asyncio.Protocol):
    """`lost` is called once, when the connection has ended."""

    def __init__(self, lost: Callable[["HttpConnection"], None]) -> None:
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._most = 0
        self._received = 0
        # About the answer: no body follows its head; its head gives the end of its body; it is complete.
        self._is_bodiless = False
        self._is_framed = False
        self._is_complete = False
        self.is_reusable = False
        self.idle_since = 0.0

    async def exchange(
        self, request: bytes, most: int, ends_at: float, *, is_bodiless: bool = False
    ) -> Answer:
        """Send a request and read its answer, `most` bytes of its body, until `ends_at` on the loop's clock.

        Raises ExchangeFailed or TimeoutError when no head came. Afterwards the connection is either reusable
        (`is_reusable`) or closed.
        """
        self._answer, self._most, self._received = Answer(), most, 0
        self._is_bodiless, self._is_framed, self._is_complete = is_bodiless, False, False
        self.is_reusable = False
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(ends_at, self._break_off, TimeoutError())
        try:
            self._transport.write(request)
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None
            if not self.is_reusable:
                self._transport.abort()

    @property
    def is_untouched(self) -> bool:
        """Whether no byte of an answer has come."""
        return self._received == 0

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.abort()

    # Called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            # Bytes that come between two answers cannot be told from the second answer.
            self.is_reusable = False
            self._transport.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_complete, self.is_reusable = True, False
        except httptools.HttpParserError:
            self.is_reusable = False
            if not self._is_complete:
                self._break_off(NoAnswer(INVALID))
        answer = self._answer
        if self._is_complete:
            self._settle()
        elif not answer.status:
            if self._received > LONGEST_HEAD:
                self._break_off(NoAnswer(INVALID))
        elif len(answer.body) > self._most or self._received > WIRE_SHARE * self._most + LONGEST_HEAD:
            answer.is_cut = True
            self._break_off(ExchangeFailed(f"The answer is longer than {self._most} bytes."))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        self._lost(self)
        if self._answer.status and not self._is_framed:
            # A body without framing ends with the connection.
            self._settle()
        else:
            self._break_off(_broken(error))

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._is_complete:
            # A second answer to one request.
            self.is_reusable = False

    def on_status(self, reason: bytes) -> None:
        if not self._is_complete:
            self._answer.reason += reason

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if not self._answer.status:
            self._answer.headers.append((name, value or b""))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._is_complete or (status < 200 and status != _SWITCHING_PROTOCOLS):
            # Early hints: the answer itself follows.
            return
        answer = self._answer
        answer.status = status
        self._is_framed = any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in answer.headers
        )
        if self._is_bodiless:
            self._is_complete = True

    def on_body(self, body: bytes) -> None:
        if not self._is_complete and len(self._answer.body) <= self._most:
            self._answer.body += body

    def on_message_complete(self) -> None:
        if not self._answer.status:
            self._answer = Answer()
        elif not self._is_complete:
            self._is_complete = True
            self.is_reusable = self._parser.should_keep_alive()

    # The end of an exchange

    def _break_off(self, reason: Exception) -> None:
        """End the exchange: with the answer so far if its head is complete, else with the reason as an error."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        self.is_reusable = False
        if not self._answer.status:
            waiter.set_exception(reason)
        else:
            self._answer.flaw = reason
            self._settle()

    def _settle(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        answer = self._answer
        if len(answer.body) > self._most:
            answer.is_cut = True
            answer.body = answer.body[: self._most]
        waiter.set_result(answer)


def reason_of(error: BaseException) -> str:
    """The error of a socket in the system's words."""
    if isinstance(error, ssl.SSLError):
        return quotable(error.reason or "the handshake failed").replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return quotable(str(error)) or "the connection was closed"


def _broken(error: Exception | None) -> Exception:
    if isinstance(error, TimeoutError):
        return error
    if isinstance(error, ssl.SSLError):
        return NotEncrypted(f"No encrypted connection could be made: {reason_of(error)}.")
    if error is None:
        return NoAnswer("The receiver closed the connection without an answer.")
    return Broken(f"The connection broke before the answer: {reason_of(error)}.")
