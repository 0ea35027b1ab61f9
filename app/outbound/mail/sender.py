"""Builds the message of a rendered mail and hands it to the mailer."""

from typing import Final

import orjson

from app.outbound.attempt import Attempt
from app.outbound.mail.mailer import Mailer
from app.outbound.mail.mime import build_message, split_mailbox

MOST_TO_ONE: Final = 2
"""Mails under way to one recipient, so that a mail server that hangs keeps no more places than this from others."""


class MailSender:
    """Sends mails from one address. A mail's Message-ID stays the same through all attempts."""

    def __init__(self, mailer: Mailer, mail_from: str) -> None:
        self._mailer = mailer
        self._sender = mail_from
        self._envelope_from = split_mailbox(mail_from)[1]
        self._domain = self._envelope_from.rpartition("@")[2]

    async def send(
        self, mail_id: str, recipient: str, content: bytes | str, unsubscribe_url: str | None = None
    ) -> Attempt:
        """Make an attempt; `content` is a `Mail` as JSON."""
        message = build_message(
            sender=self._sender,
            recipient=recipient,
            message_id=f"<{mail_id}@{self._domain}>",
            unsubscribe_url=unsubscribe_url,
            **orjson.loads(content),
        )
        return await self._mailer.send(message, self._envelope_from, recipient)
