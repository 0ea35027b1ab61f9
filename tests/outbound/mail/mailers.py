"""Mailers to servers of this machine, and a mail for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

from app.outbound.attempt import Attempt
from app.outbound.mail.mime import build_message
from app.outbound.mail.smtp import SmtpMailer
from app.outbound.mail.smtp_url import SmtpServer, Tls

FROM, TO = "events@voltwire.example", "jo@example.com"


def mail(text: str = "A meter was created.\n", message_id: str = "<dlv_1@voltwire.example>") -> EmailMessage:
    return build_message(
        sender=f"Voltwire <{FROM}>",
        recipient=TO,
        subject="Meter",
        text=text,
        html="<p>x",
        message_id=message_id,
    )


@asynccontextmanager
async def mailer_to(port: int, tls: Tls = Tls.OPPORTUNISTIC, **options: Any) -> AsyncIterator[SmtpMailer]:
    login = {name: options.pop(name) for name in ("username", "password") if name in options}
    mailer = SmtpMailer(SmtpServer("127.0.0.1", port, tls, **login), **({"timeout": 10.0} | options))
    try:
        yield mailer
    finally:
        await mailer.aclose()


async def send_once(port: int, tls: Tls = Tls.OPPORTUNISTIC, **options: Any) -> Attempt:
    async with mailer_to(port, tls, **options) as mailer:
        return await mailer.send(mail(), FROM, TO)
