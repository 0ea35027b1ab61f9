"""The tests' mail server: what is sent is what is kept; refusals are refusals."""

import asyncio
import datetime
import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.services.smtp import SmtpSink

pytestmark = pytest.mark.long


def message(to: str, subject: str = "Grüße") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Voltwire <events@localhost>", to, subject
    mail.set_content("plain ✓\n")
    mail.add_alternative("<p>html ✓</p>\n", subtype="html")
    return mail


def server_context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def send(sink: SmtpSink, mail: EmailMessage, **options: object) -> None:
    await aiosmtplib.send(mail, hostname="127.0.0.1", port=sink.port, **{"start_tls": False, **options})


async def test_a_mail_is_kept_whole(smtp_sink: SmtpSink):
    arrival = asyncio.create_task(smtp_sink.wait_for(1))
    await send(smtp_sink, message("ann@example.test"))
    (mail,) = await arrival
    assert (mail.sender, mail.recipients, mail.tls) == ("events@localhost", ["ann@example.test"], False)
    assert (mail.subject, mail.text, mail.html) == ("Grüße", "plain ✓\n", "<p>html ✓</p>\n")
    assert smtp_sink.to("ann@example.test") == [mail]
    assert smtp_sink.to("bob@example.test") == []


async def test_refusals_by_recipient_and_by_content(smtp_sink: SmtpSink):
    smtp_sink.refuse("Full@example.test", "452 4.2.2 Mailbox full", times=1)
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused) as refused:
        await send(smtp_sink, message("full@example.test"))
    assert [one.code for one in refused.value.recipients] == [452]
    await send(smtp_sink, message("full@example.test"))
    smtp_sink.refuse_data("554 5.7.1 Spam", times=1)
    with pytest.raises(aiosmtplib.SMTPDataError, match="Spam"):
        await send(smtp_sink, message("ann@example.test"))
    assert list(smtp_sink.attempts) == ["full@example.test", "full@example.test", "ann@example.test"]
    assert [mail.recipients for mail in smtp_sink.mails] == [["full@example.test"]]


async def test_starttls_when_offered(tmp_path: Path):
    with SmtpSink(server_context(tmp_path)) as sink:
        await send(sink, message("ann@example.test"), start_tls=True, validate_certs=False)
        ((mail),) = await sink.wait_for(lambda mail: mail.subject == "Grüße")
        assert mail.tls


def test_it_answers_while_the_test_blocks_and_not_after():
    with SmtpSink() as sink:
        with smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.send_message(message("ann@example.test"))
        assert [mail.subject for mail in sink.mails.wait(1)] == ["Grüße"]
        port = sink.port
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("127.0.0.1", port)


async def test_a_wait_in_vain_says_what_came(smtp_sink: SmtpSink):
    await send(smtp_sink, message("ann@example.test"))
    await smtp_sink.wait_for(1)
    with pytest.raises(TimeoutError, match=r"No 2 of them within 0.01 s; received 1: .*ann@example.test"):
        await smtp_sink.wait_for(2, timeout=0.01)
