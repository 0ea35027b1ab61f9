"""The SMTP server that VOLTWIRE_SMTP_URL names."""

from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs, unquote, urlsplit


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
