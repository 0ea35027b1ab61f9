"""A real mail server for tests: keeps what it is sent, refuses whom it is told to."""

import asyncio
import email
import email.policy
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.services.patience import PATIENCE
from tests.services.records import LoopThread, Records


@dataclass(frozen=True)
class Mail:
    """An accepted message: its envelope, its exact bytes, and the parsed message."""

    sender: str
    recipients: list[str]
    content: bytes = field(repr=False)
    message: EmailMessage = field(repr=False)
    at: float
    """Arrival on the monotonic clock."""
    tls: bool

    @property
    def subject(self) -> str:
        return str(self.message["subject"])

    @property
    def text(self) -> str:
        """The plain-text body, its lines ending in a newline."""
        return self._body("plain")

    @property
    def html(self) -> str:
        """The HTML body, its lines ending in a newline."""
        return self._body("html")

    def _body(self, kind: Literal["plain", "html"]) -> str:
        part = self.message.get_body((kind,))
        return "" if part is None else str(part.get_content()).replace("\r\n", "\n")


class SmtpSink:
    """An SMTP server on 127.0.0.1 in a thread of its own; a context manager.

    `refuse` answers RCPT for one address with an SMTP reply, as often as said, `refuse_data` the same
    for DATA; `hold` leaves every RCPT unanswered. `tls`, a server-side context, offers STARTTLS.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mails: Records[Mail] = Records()
        self.attempts: Records[str] = Records()
        """Every RCPT address, refused ones included."""
        self._tls = tls
        self._recipients: dict[str, tuple[str, float]] = {}
        self._data: tuple[str, float] = ("", 0)
        self._holds = False
        self._released = asyncio.Event()
        self._thread = LoopThread("smtp-sink")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._server = self._thread.run(self._listen(self._socket))

    @property
    def url(self) -> str:
        """`smtp://127.0.0.1:port`, fit for VOLTWIRE_SMTP_URL."""
        return f"smtp://127.0.0.1:{self.port}"

    def refuse(
        self, recipient: str, reply: str = "550 5.1.1 No such mailbox", times: float = float("inf")
    ) -> None:
        """Answers RCPT TO `recipient` with `reply` the next `times` times; 0 accepts again."""
        self._recipients[recipient.lower()] = (reply, times)

    def refuse_data(self, reply: str = "451 4.3.0 Try again later", times: float = float("inf")) -> None:
        """Answers the content of any message with `reply` the next `times` times; 0 accepts again."""
        self._data = (reply, times)

    def hold(self) -> None:
        """Answers RCPT only once `release()` is called (or never, when the client leaves)."""
        self._holds = True

    def release(self) -> None:
        """Lets every held answer go, now and from now on."""
        self._thread.loop.call_soon_threadsafe(self._released.set)

    async def wait_for(self, wanted: int | Callable[[Mail], object], timeout: float = PATIENCE) -> list[Mail]:
        """The mails, once there are `wanted`, or those that match once one does. Raises `TimeoutError`."""
        return await self.mails.wait_for(wanted, timeout)

    def to(self, recipient: str) -> list[Mail]:
        """The mails accepted for one address so far."""
        return [mail for mail in self.mails if recipient in mail.recipients]

    def clear(self) -> None:
        """Forgets mails and refusals."""
        self.mails.clear()
        self.attempts.clear()
        self._recipients.clear()
        self._data = ("", 0)

    def close(self) -> None:
        """Ends the server; who connects from now on is refused."""
        if not self._thread.loop.is_closed():
            self._thread.run(self._end())
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _listen(self, listening: socket.socket) -> Any:
        def session() -> SMTP:
            return SMTP(
                self,
                hostname="sink.test",
                tls_context=self._tls,
                enable_SMTPUTF8=True,
                loop=self._thread.loop,
            )

        return await self._thread.loop.create_server(session, sock=listening)

    async def _end(self) -> None:
        self._server.close()

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.attempts.add(address)
        if self._holds:
            await self._released.wait()
        reply, times = self._recipients.get(address.lower(), ("", 0))
        if times > 0:
            self._recipients[address.lower()] = (reply, times - 1)
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        reply, times = self._data
        if times > 0:
            self._data = (reply, times - 1)
            return reply
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = email.message_from_bytes(content, policy=email.policy.default)
        tls = session.ssl is not None
        self.mails.add(
            Mail(envelope.mail_from or "", list(envelope.rcpt_tos), content, message, time.monotonic(), tls)
        )
        return "250 OK"
