"""The mailer of the settings: an SMTP server, or, without one, a folder."""

from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

from app.outbound.attempt import Attempt
from app.outbound.mail.dkim import Dkim
from app.outbound.mail.folder import FolderMailer
from app.outbound.mail.smtp import SmtpMailer
from app.outbound.mail.smtp_url import parse_smtp_url


class Mailer(Protocol):
    """Hands one mail over to one recipient. Trouble on the way is recorded in the attempt and never raised."""

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Attempt: ...

    async def aclose(self) -> None: ...


def open_mailer(smtp_url: str | None, folder: Path, signer: Dkim | None = None) -> Mailer:
    """SMTP with a URL, else the folder. Raises ValueError for a bad URL."""
    return SmtpMailer(parse_smtp_url(smtp_url), signer) if smtp_url else FolderMailer(folder, signer)
