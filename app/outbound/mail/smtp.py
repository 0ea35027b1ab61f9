"""Mail over SMTP through a few kept connections.

aiosmtplib speaks the protocol. Here is what it lacks: connections that are used again, one deadline for a mail, and
replies told apart by what they are about.
"""

import asyncio
import os
import socket
import ssl
import time
from email.message import EmailMessage

import aiosmtplib

from app.outbound.attempt import KEPT_BYTES, Attempt, AttemptOutcome, AttemptTimer
from app.outbound.mail.dkim import Dkim
from app.outbound.mail.mime import plain_address, signed_bytes
from app.outbound.mail.smtp_status import enhanced_status
from app.outbound.mail.smtp_url import SmtpServer, Tls
from app.outbound.text import quotable, storable_text

DEFAULT_TIMEOUT = 60.0
CONNECTIONS = 16
"""Enough for all mails that a worker has under way at once, of any kind, so that none waits for another."""

LONGEST_WAIT = 5.0
"""Seconds that a mail waits for a connection if all of them are taken nevertheless."""

ATTEMPT_SECONDS = LONGEST_WAIT + DEFAULT_TIMEOUT
"""The longest attempt, which leases must outlast."""

IDLE_SECONDS = 30
"""Servers hang up on idle clients after a minute or more; a younger connection is most likely alive."""

BAD_ADDRESS_STATUS, BAD_ADDRESS_CODE = 553, "5.1.3"

_START_TLS = {Tls.IMPLICIT: False, Tls.REQUIRED: True, Tls.OPPORTUNISTIC: None}
_ABOUT_MAIL = (
    aiosmtplib.SMTPSenderRefused,
    aiosmtplib.SMTPRecipientRefused,
    aiosmtplib.SMTPDataError,
    aiosmtplib.SMTPAuthenticationError,
)


class SmtpMailer:
    """Sends through at most `connections` kept connections. Tests give shorter times, and an authority of their own.

    Certificates are verified, except under opportunistic STARTTLS, where an attacker who could forge one could as well
    hide the offer of STARTTLS. So set ?starttls=required where a password is used over an open network.
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

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Attempt:
        """An attempt within the timeout, which begins when a connection is free.

        A reply about the mail gives SUCCEEDED or SMTP with its code. CONNECTION is no word about the mail: the server
        refused the connection itself, or none became free.
        """
        timer = AttemptTimer()
        try:
            sender = plain_address(envelope_from)
        except ValueError as error:
            return timer.ended(AttemptOutcome.CONNECTION, f"The mail has no sender: {error}")
        try:
            mailbox = plain_address(recipient)
        except ValueError as error:
            return timer.ended(
                AttemptOutcome.SMTP,
                str(error),
                status=BAD_ADDRESS_STATUS,
                enhanced_status=BAD_ADDRESS_CODE,
                recipient_refused=True,
            )
        content = await signed_bytes(message, self._signer)
        if not await self._may_connect():
            return timer.ended(AttemptOutcome.CONNECTION, "No connection to the mail server became free.")
        timer = AttemptTimer()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._transact(timer, sender, mailbox, content)
        except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
            return _failed(timer, failure, self._timeout)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Say QUIT on all idle connections, and close them."""
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

    async def _transact(self, timer: AttemptTimer, sender: str, recipient: str, content: bytes) -> Attempt:
        client = await self._connected(sender)
        is_healthy = False
        try:
            await client.rcpt(recipient)
            reply = await client.data(content)
            is_healthy = True
            text = _reply_text(reply.message)
            return timer.ended(AttemptOutcome.SUCCEEDED, status=reply.code, response_body=text)
        except aiosmtplib.SMTPResponseException as refusal:
            is_announced = client.supports_extension("ENHANCEDSTATUSCODES")
            is_healthy = await _reset(client)
            return _refused(timer, refusal, is_announced)
        finally:
            self._give_back(client, is_healthy)

    async def _connected(self, sender: str) -> aiosmtplib.SMTP:
        """A connection on which MAIL FROM was accepted: an idle one that is still good, else a new one."""
        while self._idle:
            since, client = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and client.is_connected:
                try:
                    await client.mail(sender)
                    return client
                except (aiosmtplib.SMTPException, OSError):
                    # A new session decides, whatever the aged one answered: nothing of the mail was sent yet.
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

    def _give_back(self, client: aiosmtplib.SMTP, is_healthy: bool) -> None:
        if is_healthy and client.is_connected:
            self._idle.append((time.monotonic(), client))
        else:
            client.close()

    def _new_client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._server.host,
            port=self._server.port,
            username=self._server.username,
            password=self._server.password,
            # Given, because the library would ask the name server for it, blocking the loop.
            local_hostname=socket.gethostname(),
            timeout=self._timeout,
            use_tls=self._server.tls is Tls.IMPLICIT,
            start_tls=_START_TLS[self._server.tls],
            tls_context=self._ssl_context,
        )


def _failed(timer: AttemptTimer, failure: Exception, timeout: float) -> Attempt:
    """The attempt that ended in an error other than a reply to RCPT TO or the data."""
    if isinstance(failure, aiosmtplib.SMTPResponseException):
        return _refused(timer, failure, is_announced=False)
    outcome, error = _explained(failure, timeout)
    return timer.ended(outcome, error)


def _explained(failure: Exception, timeout: float) -> tuple[AttemptOutcome, str]:
    cause = failure.__cause__ or failure
    if isinstance(failure, TimeoutError | aiosmtplib.SMTPTimeoutError):
        return AttemptOutcome.TIMEOUT, f"The mail server did not finish within {timeout:g} seconds."
    if isinstance(cause, ssl.SSLError):
        verify_message: str = getattr(cause, "verify_message", "")
        reason = verify_message or (cause.reason or "handshake failed").replace("_", " ").lower()
        return AttemptOutcome.TLS, f"No encrypted connection to the mail server: {reason}."
    if "STARTTLS extension not supported" in str(failure):
        return AttemptOutcome.TLS, "The mail server does not offer STARTTLS, which is required."
    if isinstance(cause, socket.gaierror):
        return AttemptOutcome.DNS, "The name of the mail server could not be resolved."
    if isinstance(cause, OSError) and cause.errno:
        return AttemptOutcome.CONNECTION, f"No connection to the mail server: {os.strerror(cause.errno)}."
    if isinstance(failure, aiosmtplib.SMTPServerDisconnected):
        return AttemptOutcome.CONNECTION, "The mail server closed the connection."
    reason = quotable(str(failure)).rstrip(".")
    return AttemptOutcome.CONNECTION, f"The mail could not be handed over: {reason}."


def _refused(timer: AttemptTimer, refusal: aiosmtplib.SMTPResponseException, is_announced: bool) -> Attempt:
    """The attempt that the server answered with this refusal."""
    return timer.ended(
        AttemptOutcome.SMTP if isinstance(refusal, _ABOUT_MAIL) else AttemptOutcome.CONNECTION,
        f"The mail server answered {refusal.code}: {quotable(refusal.message)}",
        status=refusal.code,
        response_body=_reply_text(refusal.message),
        enhanced_status=enhanced_status(refusal, is_announced),
        recipient_refused=isinstance(refusal, aiosmtplib.SMTPRecipientRefused),
    )


def _reply_text(reply: str) -> str:
    return storable_text(reply.encode("utf-8", "replace")[:KEPT_BYTES])


async def _reset(client: aiosmtplib.SMTP) -> bool:
    """Whether the connection, its transaction ended, can carry another mail."""
    try:
        await client.rset()
    except (aiosmtplib.SMTPException, OSError):
        return False
    return True


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if tls is Tls.OPPORTUNISTIC:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
