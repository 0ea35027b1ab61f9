"""Mails as bytes: what a mail program finds in them, and what no input can put there."""

import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.mail.dkim import Dkim, DkimError, load_dkim
from app.outbound.mail.mime import build_message, file_bytes, mail_bytes, plain_address

LINK = "https://voltwire.example/email-subscriptions/unsubscribe/" + "t" * 200
ALL_HEADERS = {
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "MIME-Version",
    "Content-Type",
}
KEY = rsa.generate_private_key(65537, 2048)


@cache
def signer() -> Dkim:
    """A signer by `KEY`; the checks of a key that is loaded take long."""
    return load_dkim("voltwire.example", "s1", pem(KEY))


def pem(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> str:
    data: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return data.decode()


def mail(**changes: Any) -> EmailMessage:
    given_values: dict[str, Any] = {
        "sender": "Voltwire <events@voltwire.example>",
        "recipient": "jo@example.com",
        "subject": "Meter created",
        "text": "A meter was created.\n",
        "html": "<p>A meter was created.</p>\n",
        "message_id": "<dlv_1@voltwire.example>",
        "unsubscribe_url": LINK,
    }
    return build_message(**(given_values | changes))


def parsed(message: EmailMessage) -> EmailMessage:
    return email.message_from_bytes(mail_bytes(message), policy=email.policy.default)


def content_of(part: Any) -> str:
    text: str = part.get_content()
    return text.replace("\r\n", "\n")


def test_headers_and_parts() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    found = parsed(mail())
    assert set(found.keys()) == ALL_HEADERS
    assert found["From"] == "Voltwire <events@voltwire.example>"
    assert found["To"] == "jo@example.com"
    assert found["Subject"] == "Meter created"
    assert before <= found["Date"].datetime <= datetime.now(UTC)
    assert found["Message-ID"] == "<dlv_1@voltwire.example>"
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert found.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in found.iter_parts()] == ["text/plain", "text/html"]
    assert [content_of(part) for part in found.iter_parts()] == [
        "A meter was created.\n",
        "<p>A meter was created.</p>\n",
    ]


def test_the_unsubscribe_link_and_the_message_id_are_written_whole() -> None:
    message_id = f"<{'d' * 100}@{'v' * 60}.example>"
    lines = mail_bytes(mail(message_id=message_id)).split(b"\r\n")
    assert b"List-Unsubscribe: <%b>" % LINK.encode() in lines
    assert b"Message-ID: " + message_id.encode() in lines


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("events@voltwire.example", ""),
        ("<events@voltwire.example>", ""),
        (" Voltwire  Events <events@voltwire.example> ", "Voltwire Events"),
        ('"Voltwire, the one" <events@voltwire.example>', "Voltwire, the one"),
        ("Voltwire, the one <events@voltwire.example>", "Voltwire, the one"),
        ("a@b <c@d> <events@voltwire.example>", "a@b <c@d>"),
        ("Zähler <events@voltwire.example>", "Zähler"),
    ],
)
def test_senders(sender: str, name: str) -> None:
    (found,) = parsed(mail(sender=sender))["From"].addresses
    assert (found.display_name, found.addr_spec) == (name, "events@voltwire.example")


def test_without_a_link_there_is_no_unsubscribe() -> None:
    assert set(parsed(mail(unsubscribe_url=None)).keys()) == ALL_HEADERS - {
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
    }


def test_the_bytes_are_ascii_lines_that_every_server_takes() -> None:
    content = mail_bytes(mail(subject="Zähler " * 60, text="ü" * 5000, html="<p>" + "é" * 5000))
    assert content.isascii()
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    assert max(map(len, content.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(("length", "is_whole"), [(998, True), (999, False)])
def test_a_link_is_a_whole_line_as_long_as_servers_take_it(length: int, is_whole: bool) -> None:
    link = "https://voltwire.example/".ljust(length, "=")
    content = mail_bytes(mail(text=f"Confirm:\n{link}\n", html=f'<a href="{link[:900]}">Confirm</a>'))
    assert (link.encode() in content.split(b"\r\n")) == is_whole
    assert f'<a href="{link[:900]}">Confirm</a>'.encode() in content
    assert max(map(len, content.split(b"\r\n"))) <= 998
    part = next(iter(email.message_from_bytes(content, policy=email.policy.default).iter_parts()))
    assert content_of(part) == f"Confirm:\n{link}\n"


@given(text=st.text(max_size=300), html=st.text(max_size=300))
def test_dkim_of_a_mail_in_a_file_is_verified(text: str, html: str) -> None:
    assert dkim.verify(file_bytes(mail(text=text, html=html), signer()), dnsfunc=dns_of(KEY))


def test_text_comes_through() -> None:
    text = "Zähler 2499999999991: 48 Werte, 12,5 kWh — 漢字 👍\n.\n..dot\nFrom here\n"
    found = parsed(mail(text=text, subject="Zähler 漢字 👍"))
    part = next(iter(found.iter_parts()))
    assert (content_of(part), found["Subject"]) == (text, "Zähler 漢字 👍")


def test_what_a_mail_cannot_carry_is_replaced() -> None:
    part = next(iter(parsed(mail(text="a\x00b\ud800c\r\nd\n")).iter_parts()))
    assert content_of(part) == "ab?c\nd\n"


@pytest.mark.parametrize(
    "line_break", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\0", "\r\n\r\n", "\t"]
)
def test_no_header_gets_out_of_a_subject_or_a_name(line_break: str) -> None:
    evil = f"Hello{line_break}Bcc: victim@example.com"
    found = parsed(mail(subject=evil, sender=f"{evil} <events@voltwire.example>"))
    assert set(found.keys()) == ALL_HEADERS
    assert found["Subject"] == "Hello Bcc: victim@example.com"
    assert [(one.display_name, one.addr_spec) for one in found["From"].addresses] == [
        ("Hello Bcc: victim@example.com", "events@voltwire.example")
    ]


@given(subject=st.text(), name=st.text(), text=st.text(), html=st.text())
def test_no_text_breaks_out(subject: str, name: str, text: str, html: str) -> None:
    content = mail_bytes(
        mail(subject=subject, sender=f"{name} <events@voltwire.example>", text=text, html=html)
    )
    assert content.isascii()
    found = email.message_from_bytes(content, policy=email.policy.default)
    assert set(found.keys()) == ALL_HEADERS
    assert len(found.keys()) == len(ALL_HEADERS)
    assert [one.addr_spec for one in found["To"].addresses] == ["jo@example.com"]
    assert [one.addr_spec for one in found["From"].addresses] == ["events@voltwire.example"]
    assert [part.get_content_type() for part in found.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": "dlv_1@voltwire.example"},
        {"message_id": "<dlv_1>"},
        {"message_id": "<dlv_1@voltwire.example>\r\nBcc: victim@example.com"},
        {"message_id": "<dlv 1@voltwire.example>"},
        {"message_id": "<dlvé@voltwire.example>"},
        {"message_id": f"<{'d' * 300}@voltwire.example>"},
        {"recipient": "jo"},
        {"recipient": "jo@example.com, victim@example.com"},
        {"recipient": "jo@example.com\r\nBcc: victim@example.com"},
        {"sender": "nobody"},
        {"unsubscribe_url": "https://voltwire.example/>\r\nBcc: victim@example.com"},
        {"unsubscribe_url": "https://voltwire.example/a b"},
        {"unsubscribe_url": "mailto:stop@voltwire.example"},
        {"unsubscribe_url": "https://voltwire.example/" + "a" * 900},
    ],
)
def test_what_comes_from_code_must_be_right(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        mail(**changes)


@pytest.mark.parametrize(
    ("address", "plain"),
    [
        ("jo@example.com", "jo@example.com"),
        ("Jo.Doe+x@Example.COM", "Jo.Doe+x@example.com"),
        ("o'brien@example.com", "o'brien@example.com"),
        ("jo@bücher.example", "jo@xn--bcher-kva.example"),
        ("events@localhost", "events@localhost"),
    ],
)
def test_addresses(address: str, plain: str) -> None:
    assert plain_address(address) == plain


@pytest.mark.parametrize(
    "address",
    [
        "",
        "@",
        "jo",
        "jo@",
        "@example.com",
        "jo@example.com\n",
        "jo@example.com\r\nRCPT TO:<x@example.com>",
        "jo doe@example.com",
        '"jo doe"@example.com',
        "jo@@example.com",
        "<jo@example.com>",
        "jo@example.com>",
        ".jo@example.com",
        "jo.@example.com",
        "j..o@example.com",
        "jö@example.com",
        "jo@exa mple.com",
        "jo@[127.0.0.1]",
        "jo@example..com",
        "j" * 65 + "@example.com",
        "jo\0@example.com",
    ],
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="email address"):
        plain_address(address)


def dns_of(key: rsa.RSAPrivateKey) -> Any:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.split(b"\n")[1:-2])

    def lookup(name: bytes, timeout: int = 5) -> bytes | None:
        return record if name == b"s1._domainkey.voltwire.example." else None

    return lookup


@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_dkim(tmp_path: Path, form: serialization.PrivateFormat) -> None:
    path = tmp_path / "dkim.pem"
    path.write_text(pem(KEY, form))
    for key in (pem(KEY, form), str(path)):
        content = mail_bytes(mail(subject="Zähler " * 30), load_dkim("voltwire.example", "s1", key))
        assert dkim.verify(content, dnsfunc=dns_of(KEY))
        signature = email.message_from_bytes(content)["DKIM-Signature"]
        tags = dict(tag.strip().split("=", 1) for tag in signature.split(";"))
        signed = {name.strip() for name in tags["h"].split(":")}
        assert (tags["d"], tags["s"], tags["a"]) == ("voltwire.example", "s1", "rsa-sha256")
        assert signed == {name.lower() for name in ALL_HEADERS}


def test_dkim_signs_what_is_there() -> None:
    content = mail_bytes(mail(unsubscribe_url=None), signer())
    assert dkim.verify(content, dnsfunc=dns_of(KEY))


@given(subject=st.text(max_size=200), text=st.text(max_size=500), html=st.text(max_size=500))
def test_dkim_of_any_mail_is_verified_by_another_implementation(subject: str, text: str, html: str) -> None:
    content = mail_bytes(mail(subject=subject, text=text, html=html), signer())
    assert dkim.verify(content, dnsfunc=dns_of(KEY))
    assert max(len(line) for line in content.partition(b"\r\nFrom:")[0].split(b"\r\n")) <= 78


@given(
    body=st.text(alphabet=" \t\r\nab=.", max_size=200).map(
        lambda text: re.sub(r"\r?\n|\r", "\r\n", text + "\n")
    ),
    subject=st.sampled_from(["x", " x ", "a\r\n  b\t c ", "\tx:y", ""]),
)
def test_dkim_folds_white_space_as_the_standard_says(body: str, subject: str) -> None:
    content = f"From: a@voltwire.example\r\nX-Not: signed\r\nSubject:{subject}\r\n\r\n{body}".encode()
    signed = signer().sign(content)
    assert dkim.verify(signed, dnsfunc=dns_of(KEY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"unsubscribe/t", b"unsubscribe/u"),
        (b"One-Click", b"Two-Click"),
        (b"Meter created", b"Meter deleted"),
        (b"was created", b"was deleted"),
    ],
)
def test_dkim_notices_a_change(old: bytes, new: bytes) -> None:
    content = mail_bytes(mail(), signer())
    assert not dkim.verify(content.replace(old, new, 1), dnsfunc=dns_of(KEY))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("/nowhere/dkim.pem", "cannot be read: No such file"),
        ("-----BEGIN PRIVATE KEY-----\nnonsense", "not an unencrypted private key"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "not an RSA key"),
        (
            KEY.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            ).decode(),
            "not an unencrypted private key",
        ),
    ],
)
def test_dkim_keys_that_cannot_be_used(key: str, sentence: str) -> None:
    with pytest.raises(DkimError, match=sentence):
        load_dkim("voltwire.example", "s1", key)


def test_a_signer_never_shows_its_key() -> None:
    assert repr(signer()) == "Dkim(domain='voltwire.example', selector='s1')"
    assert isinstance(signer(), Dkim)
