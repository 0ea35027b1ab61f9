"""Mail out: over SMTP through a few kept connections, or, without a mail server, into a folder."""

import asyncio
import os
import re
import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from email.message import EmailMessage
from enum import Enum
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib

from app.outbound.attempt import KEPT_BYTES, AttemptOutcome, Exchange, storable_line, storable_text
from app.outbound.mail.dkim import Dkim
from app.outbound.mail.mime import mail_bytes, plain_address
from app.outbound.mail.smtp_status import enhanced_status

DEFAULT_TIMEOUT = 60.0
CONNECTIONS = 16
"""One for every mail that a worker has under way at once, of whatever kind: none waits for another to end."""

LONGEST_WAIT = 5.0
"""How long a mail waits for a connection all the same, should there be none."""

ATTEMPT_SECONDS = LONGEST_WAIT + DEFAULT_TIMEOUT
"""What an attempt may take in all, and so what its lease must last for."""

IDLE_SECONDS = 30
"""Servers hang up on idle clients after a minute or more; a younger connection is most likely alive."""

BAD_ADDRESS_STATUS, BAD_ADDRESS_CODE = 553, "5.1.3"

_FILE_CHARACTERS = re.compile(r"[^A-Za-z0-9@_.-]+")


class Mailer(Protocol):
    """Sends one mail to one recipient and tells what happened; never raises for trouble on the way."""

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Exchange: ...

    async def aclose(self) -> None: ...


class Tls(Enum):
    """IMPLICIT: from the first byte. REQUIRED: STARTTLS or no mail. OPPORTUNISTIC: STARTTLS where offered."""

    IMPLICIT = "implicit"
    REQUIRED = "required"
    OPPORTUNISTIC = "opportunistic"


@dataclass(frozen=True, slots=True)
class SmtpServer:
    host: str
    port: int
    tls: Tls
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"SmtpServer({self.host}:{self.port}, {self.tls.value})"


def open_mailer(smtp_url: str | None, folder: Path, signer: Dkim | None = None) -> Mailer:
    """The mailer for the settings: SMTP with a URL, else the folder. Raises ValueError for a bad URL."""
    return SmtpMailer(parse_smtp_url(smtp_url), signer) if smtp_url else FolderMailer(folder, signer)


def parse_smtp_url(url: str) -> SmtpServer:
    """`smtp://user:pass@host:port`, `smtps://…`, `?starttls=required`; user and password percent-encoded.

    Ports by default: 25, and 465 for smtps. Raises ValueError; the message never shows the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("The SMTP URL is not valid; write it as smtp://user:password@host:port.") from None
    options = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/"):
        raise ValueError("The SMTP URL is smtp://host:port or smtps://host:port.")
    if options not in ({}, {"starttls": ["required"]}):
        raise ValueError("The only option of an SMTP URL is ?starttls=required.")
    if parts.scheme == "smtps":
        tls = Tls.IMPLICIT
    else:
        tls = Tls.REQUIRED if options else Tls.OPPORTUNISTIC
    return SmtpServer(
        host=parts.hostname,
        port=port or (465 if tls is Tls.IMPLICIT else 25),
        tls=tls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password or "") if parts.username else None,
    )


class SmtpMailer:
    """Mail over SMTP through at most `connections` kept connections.

    Certificates are verified, except under opportunistic STARTTLS: whoever could forge one there could as
    well hide the offer of STARTTLS. So set ?starttls=required where a password is used over an open network.
    """

    def __init__(
        self,
        server: SmtpServer,
        signer: Dkim | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        connections: int = CONNECTIONS,
        longest_wait: float = LONGEST_WAIT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._signer = signer
        self._timeout = timeout
        self._slots = asyncio.Semaphore(connections)
        self._longest_wait = longest_wait
        self._ssl_context = ssl_context or _ssl_context(server.tls)
        self._idle: list[tuple[float, aiosmtplib.SMTP]] = []

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Exchange:
        """One attempt within the timeout, which begins when a connection is free.

        A reply by the server gives SUCCEEDED or SMTP with its code; a refusal of the connection itself gives
        CONNECTION, because it says nothing about this mail; so does a connection that did not become free.
        """
        record = _Recorder()
        try:
            sender = plain_address(envelope_from)
        except ValueError as error:
            return record.done(AttemptOutcome.CONNECTION, f"The mail has no sender: {error}")
        try:
            mailbox = plain_address(recipient)
        except ValueError as error:
            return record.done(
                AttemptOutcome.SMTP,
                str(error),
                status=BAD_ADDRESS_STATUS,
                enhanced=BAD_ADDRESS_CODE,
                recipient_refused=True,
            )
        content = await _signed(message, self._signer)
        if not await self._may_connect():
            return record.done(AttemptOutcome.CONNECTION, "No connection to the mail server became free.")
        record = _Recorder()
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._transact(record, sender, mailbox, content)
        except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
            return _failed(record, failure, self._timeout)
        finally:
            self._slots.release()
        return record.done(AttemptOutcome.SUCCEEDED, None, status=reply.code, reply=reply.message)

    async def aclose(self) -> None:
        """Take leave of the server and close all idle connections."""
        while self._idle:
            _, client = self._idle.pop()
            try:
                await client.quit(timeout=1)
            except (aiosmtplib.SMTPException, OSError):
                client.close()

    async def _may_connect(self) -> bool:
        try:
            async with asyncio.timeout(self._longest_wait):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    async def _transact(
        self, record: "_Recorder", sender: str, recipient: str, content: bytes
    ) -> aiosmtplib.SMTPResponse:
        client = await self._connected(sender)
        healthy = False
        try:
            record.enhanced_announced = client.supports_extension("ENHANCEDSTATUSCODES")
            await client.rcpt(recipient)
            reply = await client.data(content)
            healthy = True
            return reply
        except aiosmtplib.SMTPResponseException:
            healthy = await _reset(client)
            raise
        finally:
            self._give_back(client, healthy)

    async def _connected(self, sender: str) -> aiosmtplib.SMTP:
        """A connection on which MAIL FROM was accepted: an idle one if one is still good, else a new one."""
        while self._idle:
            since, client = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and client.is_connected:
                try:
                    await client.mail(sender)
                    return client
                except (aiosmtplib.SMTPException, OSError):
                    # Whatever an aged session says, a fresh one decides: nothing of the mail was sent yet.
                    pass
                except BaseException:
                    client.close()
                    raise
            client.close()
        client = self._new_client()
        try:
            await client.connect()
            await client.mail(sender)
        except aiosmtplib.SMTPSenderRefused:
            self._give_back(client, await _reset(client))
            raise
        except BaseException:
            client.close()
            raise
        return client

    def _give_back(self, client: aiosmtplib.SMTP, healthy: bool) -> None:
        if healthy and client.is_connected:
            self._idle.append((time.monotonic(), client))
        else:
            client.close()

    def _new_client(self) -> aiosmtplib.SMTP:
        starttls = {Tls.IMPLICIT: False, Tls.REQUIRED: True, Tls.OPPORTUNISTIC: None}
        return aiosmtplib.SMTP(
            hostname=self._server.host,
            port=self._server.port,
            username=self._server.username,
            password=self._server.password,
            # Given, because the library would ask the name server for it, blocking the loop.
            local_hostname=socket.gethostname(),
            timeout=self._timeout,
            use_tls=self._server.tls is Tls.IMPLICIT,
            start_tls=starttls[self._server.tls],
            tls_context=self._ssl_context,
        )


class FolderMailer:
    """Every mail as a file `<message id>.eml`, whole or not at all; the same mail again replaces its file."""

    def __init__(self, folder: Path, signer: Dkim | None = None) -> None:
        self._folder = folder
        self._signer = signer

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Exchange:
        """Write the mail. What the disk refuses is CONNECTION, and so tried again."""
        record = _Recorder()
        name = _FILE_CHARACTERS.sub("_", str(message["Message-ID"]).strip("<>")).lstrip(".")[:200]
        content = await _signed(message, self._signer)
        try:
            await asyncio.to_thread(_write_whole, self._folder / f"{name}.eml", content)
        except OSError as error:
            return record.done(AttemptOutcome.CONNECTION, f"The mail could not be written: {error.strerror}.")
        return record.done(AttemptOutcome.SUCCEEDED, None)

    async def aclose(self) -> None:
        """Nothing to release."""


class _Recorder:
    """Takes the time from its making on."""

    def __init__(self) -> None:
        # Whether the server announced ENHANCEDSTATUSCODES.
        self.enhanced_announced = False
        self._started_at = time.time_ns() // 1_000_000
        self._begun = time.perf_counter()

    def done(
        self,
        outcome: AttemptOutcome,
        error: str | None,
        *,
        status: int | None = None,
        reply: str | None = None,
        enhanced: str | None = None,
        recipient_refused: bool = False,
    ) -> Exchange:
        return Exchange(
            started_at=self._started_at,
            duration_ms=round((time.perf_counter() - self._begun) * 1000),
            outcome=outcome,
            status=status,
            response_body=None
            if reply is None
            else storable_text(reply.encode("utf-8", "replace")[:KEPT_BYTES]),
            error=error,
            enhanced_status=enhanced,
            recipient_refused=recipient_refused,
        )


def _failed(record: _Recorder, failure: Exception, timeout: float) -> Exchange:
    if isinstance(failure, TimeoutError | aiosmtplib.SMTPTimeoutError):
        return record.done(
            AttemptOutcome.TIMEOUT, f"The mail server did not finish within {timeout:g} seconds."
        )
    if isinstance(failure, aiosmtplib.SMTPResponseException):
        return _refused(record, failure)
    cause = failure.__cause__ or failure
    if isinstance(cause, ssl.SSLError):
        reason = (
            getattr(cause, "verify_message", "")
            or (cause.reason or "handshake failed").replace("_", " ").lower()
        )
        return record.done(AttemptOutcome.TLS, f"No encrypted connection to the mail server: {reason}.")
    if "STARTTLS extension not supported" in str(failure):
        return record.done(AttemptOutcome.TLS, "The mail server does not offer STARTTLS, which is required.")
    if isinstance(cause, socket.gaierror):
        return record.done(AttemptOutcome.DNS, "The name of the mail server could not be resolved.")
    if isinstance(cause, OSError) and cause.errno:
        return record.done(
            AttemptOutcome.CONNECTION, f"No connection to the mail server: {os.strerror(cause.errno)}."
        )
    if isinstance(failure, aiosmtplib.SMTPServerDisconnected):
        return record.done(AttemptOutcome.CONNECTION, "The mail server closed the connection.")
    reason = storable_line(str(failure)).rstrip(".")
    return record.done(AttemptOutcome.CONNECTION, f"The mail could not be handed over: {reason}.")


def _refused(record: _Recorder, failure: aiosmtplib.SMTPResponseException) -> Exchange:
    about_mail: tuple[type[Exception], ...] = (
        aiosmtplib.SMTPSenderRefused,
        aiosmtplib.SMTPRecipientRefused,
        aiosmtplib.SMTPDataError,
        aiosmtplib.SMTPAuthenticationError,
    )
    return record.done(
        AttemptOutcome.SMTP if isinstance(failure, about_mail) else AttemptOutcome.CONNECTION,
        f"The mail server answered {failure.code}: {storable_line(failure.message)}",
        status=failure.code,
        reply=failure.message,
        enhanced=enhanced_status(failure, record.enhanced_announced),
        recipient_refused=isinstance(failure, aiosmtplib.SMTPRecipientRefused),
    )


async def _reset(client: aiosmtplib.SMTP) -> bool:
    """End the transaction, so that the connection can carry another mail; False if it cannot."""
    try:
        await client.rset()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


async def _signed(message: EmailMessage, signer: Dkim | None) -> bytes:
    """The mail's bytes. A signature is made in a thread: the loop serves sockets meanwhile."""
    return await asyncio.to_thread(mail_bytes, message, signer) if signer else mail_bytes(message)


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls is Tls.OPPORTUNISTIC:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
