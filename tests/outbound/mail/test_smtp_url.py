"""URLs of SMTP servers, and the mailer that the settings choose."""

from pathlib import Path

import pytest

from app.outbound.mail.folder import FolderMailer
from app.outbound.mail.mailer import open_mailer
from app.outbound.mail.smtp import SmtpMailer
from app.outbound.mail.smtp_url import SmtpServer, Tls, parse_smtp_url


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 25, Tls.OPPORTUNISTIC)),
        ("smtp://mail.example/", SmtpServer("mail.example", 25, Tls.OPPORTUNISTIC)),
        ("smtp://[::1]:2525", SmtpServer("::1", 2525, Tls.OPPORTUNISTIC)),
        ("smtps://mail.example", SmtpServer("mail.example", 465, Tls.IMPLICIT)),
        (
            "smtp://vw:p%40ss%3Aword@mail.example:587?starttls=required",
            SmtpServer("mail.example", 587, Tls.REQUIRED, "vw", "p@ss:word"),
        ),
        ("smtp://vw@mail.example", SmtpServer("mail.example", 25, Tls.OPPORTUNISTIC, "vw", "")),
    ],
)
def test_urls(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server
    assert "p@ss" not in repr(parse_smtp_url(url))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mail.example",
        "http://mail.example",
        "smtp://",
        "smtp://vw:s3cret@mail.example:port",
        "smtp://vw:s3cret@mail.example:99999",
        "smtp://vw:s3cret@mail.example/path",
        "smtp://vw:s3cret@mail.example?starttls=maybe",
        "smtp://vw:s3cret@mail.example?tls=1",
        "smtp://vw:s3cret@[::1",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_smtp_url(url)
    assert "s3cret" not in str(caught.value)


async def test_the_settings_choose(tmp_path: Path) -> None:
    assert isinstance(open_mailer(None, tmp_path), FolderMailer)
    assert isinstance(open_mailer("smtp://mail.example", tmp_path), SmtpMailer)
