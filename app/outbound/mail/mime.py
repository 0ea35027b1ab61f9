"""Mails as bytes: a multipart message that no text can break out of."""

import asyncio
import re
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import EmailPolicy

from app.outbound.http.ssrf_guard import UrlRefused, ascii_host
from app.outbound.mail.dkim import Dkim
from app.outbound.text import printable_line

SUBJECT_CHARACTERS = 400
LONGEST_LINE = 998
"""Characters of a line that every mail server takes (RFC 5322, 2.1.1)."""

_UNFOLDED = frozenset({"list-unsubscribe", "list-unsubscribe-post", "message-id"})
_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[^\s@<>]+")
_MESSAGE_ID = re.compile(r"<[!-;=?A-~]{1,200}@[!-;=?A-~]{1,200}>")
_LINK = re.compile(r"https?://[!-;=?-~]{1,900}")


class _MailPolicy(EmailPolicy):
    """Writes ASCII only, and does not fold headers that mail programs compare or parse as a whole.

    The standard folding turns a long link into encoded words, which no unsubscribe button understands.
    """

    def fold(self, name: str, value: str) -> str:
        if name.lower() in _UNFOLDED:
            return f"{name}: {value}{self.linesep}"
        return str(super().fold(name, value))

    def fold_binary(self, name: str, value: str) -> bytes:
        if name.lower() in _UNFOLDED:
            return self.fold(name, value).encode("ascii")
        return super().fold_binary(name, value)


_POLICY = _MailPolicy(linesep="\r\n", cte_type="7bit")


def build_message(
    *,
    sender: str,
    recipient: str,
    subject: str,
    text: str,
    html: str,
    message_id: str,
    unsubscribe_url: str | None = None,
) -> EmailMessage:
    """A multipart/alternative mail, plain text before HTML.

    `sender` is `Name <local@domain>` or a bare address; `message_id` is `<…@…>`. With `unsubscribe_url` the mail has
    a one-click unsubscribe (RFC 8058). Line breaks and control characters in the subject and the name become spaces.
    Raises ValueError for a bad address, message id or link: these come from code or were checked when they were saved.
    """
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("A message id looks like <local@domain>.")
    message = EmailMessage(policy=_POLICY)
    message["From"] = _mailbox(*split_mailbox(sender))
    message["To"] = _mailbox("", recipient)
    message["Subject"] = printable_line(subject)[:SUBJECT_CHARACTERS]
    message["Date"] = datetime.now(UTC)
    message["Message-ID"] = message_id
    # RFC 3834: keeps autoresponders from answering.
    message["Auto-Submitted"] = "auto-generated"
    if unsubscribe_url is not None:
        if not _LINK.fullmatch(unsubscribe_url):
            raise ValueError("The unsubscribe link is not an http(s) URL of at most 900 ASCII characters.")
        message["List-Unsubscribe"] = f"<{unsubscribe_url}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    plain, rich = _body_text(text), _body_text(html)
    message.set_content(plain, cte=_encoding(plain))
    message.add_alternative(rich, subtype="html", cte=_encoding(rich))
    return message


def mail_bytes(message: EmailMessage, signer: Dkim | None = None) -> bytes:
    """The mail as it is sent: ASCII, CRLF, signed if there is a signer."""
    content = message.as_bytes(policy=_POLICY)
    return signer.sign(content) if signer else content


def file_bytes(message: EmailMessage, signer: Dkim | None = None) -> bytes:
    """The mail as a file for people: like `mail_bytes`, with texts in 8 bits, so that their links stay whole."""
    for part in message.iter_parts():
        part.set_content(part.get_content(), subtype=part.get_content_subtype(), cte="8bit")
    content = message.as_bytes(policy=_POLICY.clone(cte_type="8bit"))
    return signer.sign(content) if signer else content


async def signed_bytes(message: EmailMessage, signer: Dkim | None) -> bytes:
    """The bytes for mail servers, signed in a thread, so that the loop serves sockets meanwhile."""
    return await asyncio.to_thread(mail_bytes, message, signer) if signer else mail_bytes(message)


def plain_address(address: str) -> str:
    """`local@domain` with the domain in ASCII (IDNA), fit for an SMTP command. Raises ValueError.

    The local part is an ASCII dot-atom: addresses that need SMTPUTF8 or quotes are refused, since too few
    servers on the way take them.
    """
    local, _, domain = address.rpartition("@")
    if not _ADDRESS.fullmatch(address) or local.startswith(".") or local.endswith(".") or ".." in local:
        raise ValueError(f"“{printable_line(address)[:200]}” is not an email address.")
    try:
        return f"{local}@{ascii_host(domain)}"
    except UrlRefused:
        raise ValueError(f"“{printable_line(domain)[:200]}” is not the domain of an email address.") from None


def split_mailbox(mailbox: str) -> tuple[str, str]:
    """`Name <local@domain>` or a bare address as (name, address), neither checked.

    The standard parser is not used: its newer versions refuse names that merely look like addresses.
    """
    text = mailbox.strip()
    if not text.endswith(">"):
        return "", text
    name, _, address = text[:-1].rpartition("<")
    return name.strip().removeprefix('"').removesuffix('"'), address


def _mailbox(name: str, address: str) -> Address:
    return Address(display_name=printable_line(name)[:200], addr_spec=plain_address(address))


def _encoding(text: str) -> str | None:
    """7bit where every mail server takes the text as it is, so that its links stay whole; else the parser's choice."""
    lines = re.split(r"\r\n|\r|\n", text)
    return "7bit" if text.isascii() and max(map(len, lines)) <= LONGEST_LINE else None


def _body_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
