"""Mail over real sockets: aiosmtpd where a server behaves, a scripted one where it does not; and the folder."""

import asyncio
import email
import email.policy
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography.hazmat.primitives.asymmetric import rsa

from app.outbound.attempt import AttemptOutcome, Exchange
from app.outbound.mail.dkim import Dkim
from app.outbound.mail.mime import build_message
from app.outbound.mail.smtp import (
    FolderMailer,
    SmtpMailer,
    SmtpServer,
    Tls,
    open_mailer,
    parse_smtp_url,
)
from tests.delivery.receivers import Authority
from tests.outbound.mail.mail_servers import good_server, scripted
from tests.services.ports import free_port

FROM, TO = "events@voltwire.example", "jo@example.com"
PATIENCE = 0.3
ENOUGH = 1.0
"""Seconds within which a server that answers has taken a mail on any machine."""
ENHANCED = "250-mail.example\r\n250 ENHANCEDSTATUSCODES"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


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


async def send_once(port: int, tls: Tls = Tls.OPPORTUNISTIC, **options: Any) -> Exchange:
    async with mailer_to(port, tls, **options) as mailer:
        return await mailer.send(mail(), FROM, TO)


async def test_a_mail_arrives() -> None:
    text = "Zähler 1\n.\n..\nFrom here on\n"
    async with good_server() as (port, inbox), mailer_to(port) as mailer:
        exchange = await mailer.send(mail(text), FROM, "jo@bücher.example")
    assert exchange == Exchange(
        exchange.started_at,
        exchange.duration_ms,
        AttemptOutcome.SUCCEEDED,
        status=250,
        response_body="2.0.0 Kept as 17",
    )
    (envelope,) = inbox.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == (FROM, ["jo@xn--bcher-kva.example"])
    assert isinstance(envelope.content, bytes)
    found = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert found["Message-ID"] == "<dlv_1@voltwire.example>"
    assert isinstance(found, EmailMessage)
    part = found.get_body(("plain",))
    assert part is not None
    assert part.get_content().replace("\r\n", "\n") == text


async def test_connections_are_kept_and_are_few() -> None:
    async with good_server() as (port, inbox), mailer_to(port, connections=3) as mailer:
        exchanges = await asyncio.gather(*(mailer.send(mail(), FROM, TO) for _ in range(30)))
        one_after_another = [await mailer.send(mail(), FROM, TO) for _ in range(3)]
    assert {one.outcome for one in [*exchanges, *one_after_another]} == {AttemptOutcome.SUCCEEDED}
    assert len(inbox.envelopes) == 33
    assert len({id(session) for session in inbox.sessions}) == 3


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async with scripted(MAIL=["250 OK", "", "250 OK"]) as script, mailer_to(script.port) as mailer:
        outcomes = [(await mailer.send(mail(), FROM, TO)).outcome for _ in range(2)]
    assert outcomes == [AttemptOutcome.SUCCEEDED] * 2
    assert script.connections == 2


async def test_a_kept_connection_that_the_server_ends_with_421_is_replaced() -> None:
    async with (
        scripted(MAIL=["250 OK", "421 idle too long", "250 OK"]) as script,
        mailer_to(script.port) as mailer,
    ):
        outcomes = [(await mailer.send(mail(), FROM, TO)).outcome for _ in range(2)]
    assert outcomes == [AttemptOutcome.SUCCEEDED] * 2
    assert script.connections == 2


@pytest.mark.parametrize(
    ("replies", "status", "enhanced"),
    [
        ({"RCPT": "550 5.1.1 No such user here"}, 550, "5.1.1"),
        ({"RCPT": "550 No such user here"}, 550, "5.1.1"),
        ({"RCPT": "550 Your IP address is blacklisted"}, 550, None),
        ({"RCPT": "550-Unrouteable\r\n550 See our Policy"}, 550, None),
        ({"RCPT": "550 No such user here", "EHLO": ENHANCED}, 550, None),
        ({"RCPT": "550 5.1.1 No such user here", "EHLO": ENHANCED}, 550, "5.1.1"),
        ({"RCPT": "551 User not local"}, 551, None),
        ({"RCPT": "550 5.7.1 Not welcome"}, 550, "5.7.1"),
        ({"RCPT": "553 What a name"}, 553, None),
        ({"RCPT": "450 4.2.1 Greylisted"}, 450, "4.2.1"),
        ({"RCPT": "452-4.2.2 Mailbox\r\n452 4.2.2 full"}, 452, "4.2.2"),
        ({"MAIL": "550 5.1.1 No such sender"}, 550, "5.1.1"),
        ({"MAIL": "550 5.7.1 Sender refused"}, 550, "5.7.1"),
        ({"MAIL": "530 5.7.0 Must issue a STARTTLS command first"}, 530, "5.7.0"),
        ({"MAIL": "451 4.3.0 Later"}, 451, "4.3.0"),
        ({"DATA": "451 Later"}, 451, None),
        ({"DATA": "554 5.5.1 No valid recipients"}, 554, "5.5.1"),
        ({"END": "550 5.7.1 Looks like spam"}, 550, "5.7.1"),
        ({"END": "550 Message refused"}, 550, None),
        ({"END": "452 4.3.1 Disk full"}, 452, "4.3.1"),
    ],
)
async def test_replies_about_the_mail(
    replies: dict[str, str | None], status: int, enhanced: str | None
) -> None:
    async with scripted(**replies) as script, mailer_to(script.port) as mailer:
        exchange = await mailer.send(mail(), FROM, TO)
        # The connection is good for the next mail.
        script.replies = {
            name: reply for name, reply in script.replies.items() if name not in (*replies, ".")
        }
        script.replies.setdefault("DATA", ["354 go on"])
        assert (await mailer.send(mail(), FROM, TO)).outcome is AttemptOutcome.SUCCEEDED
    assert (exchange.outcome, exchange.status, exchange.enhanced_status) == (
        AttemptOutcome.SMTP,
        status,
        enhanced,
    )
    assert exchange.recipient_refused is ("RCPT" in replies)
    assert (exchange.error or "").startswith(f"The mail server answered {status}: ")
    assert exchange.response_body
    assert script.connections == 1


@pytest.mark.parametrize("banner", ["554 no service", "421 busy", "450 later"])
async def test_a_server_that_refuses_the_connection_says_nothing_about_the_mail(banner: str) -> None:
    async with scripted(BANNER=banner) as script:
        exchange = await send_once(script.port)
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.CONNECTION, int(banner[:3]))


@pytest.mark.parametrize("place", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
async def test_a_server_that_drops_the_connection(place: str) -> None:
    async with scripted(**{place: ""}) as script:
        exchange = await send_once(script.port)
    assert (exchange.outcome, exchange.status) == (AttemptOutcome.CONNECTION, None)
    assert (exchange.error or "").endswith(".")


@pytest.mark.parametrize("place", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
async def test_a_server_that_hangs(place: str) -> None:
    async with scripted(**{place: None}) as script:
        exchange = await send_once(script.port, timeout=PATIENCE)
    assert (exchange.outcome, exchange.status, exchange.error) == (
        AttemptOutcome.TIMEOUT,
        None,
        "The mail server did not finish within 0.3 seconds.",
    )


async def test_after_a_timeout_the_next_mail_gets_a_new_connection() -> None:
    async with (
        scripted(END=["250 OK", None, "250 OK"]) as script,
        mailer_to(script.port, timeout=ENOUGH) as mailer,
    ):
        outcomes = [(await mailer.send(mail(), FROM, TO)).outcome.value for _ in range(3)]
    assert outcomes == ["SUCCEEDED", "TIMEOUT", "SUCCEEDED"]
    assert script.connections == 2


async def test_the_wait_for_a_connection_is_not_the_servers_time() -> None:
    async with (
        scripted(END=[None, None, "250 OK"]) as script,
        mailer_to(script.port, timeout=ENOUGH, connections=1) as mailer,
    ):
        exchanges = await asyncio.gather(*(mailer.send(mail(), FROM, TO) for _ in range(3)))
    assert [one.outcome.value for one in exchanges] == ["TIMEOUT", "TIMEOUT", "SUCCEEDED"]
    assert script.connections == 3


async def test_a_connection_that_does_not_become_free() -> None:
    async with good_server() as (port, inbox), mailer_to(port, connections=1, longest_wait=0.05) as mailer:
        inbox.stuck.add(TO)
        stuck = asyncio.create_task(mailer.send(mail(), FROM, TO))
        await inbox.hung.wait_for(1)
        exchange = await mailer.send(mail(), FROM, "ann@example.com")
        inbox.let_go.set()
        assert (await stuck).outcome is AttemptOutcome.SUCCEEDED
        after = await mailer.send(mail(), FROM, "ann@example.com")
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.CONNECTION,
        "No connection to the mail server became free.",
    )
    assert after.outcome is AttemptOutcome.SUCCEEDED
    assert [one.rcpt_tos for one in inbox.envelopes] == [[TO], ["ann@example.com"]]


async def test_a_cancelled_mail_gives_its_place_back() -> None:
    async with scripted(END=[None, "250 OK"]) as script, mailer_to(script.port, connections=1) as mailer:
        task = asyncio.create_task(mailer.send(mail(), FROM, TO))
        while "." not in script.commands:  # noqa: ASYNC110 - the server has no event to tell
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await mailer.send(mail(), FROM, TO)).outcome is AttemptOutcome.SUCCEEDED


async def test_a_login_that_the_server_does_not_offer() -> None:
    async with scripted() as script:
        exchange = await send_once(script.port, username="vw", password="secret")
    assert exchange.outcome is AttemptOutcome.CONNECTION
    assert exchange.error == (
        "The mail could not be handed over: The SMTP AUTH extension is not supported by this server. "
        "Try connecting via TLS (or STARTTLS)."
    )


async def test_nobody_listens() -> None:
    exchange = await send_once(free_port())
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.CONNECTION,
        "No connection to the mail server: Connection refused.",
    )


async def test_a_server_without_a_name() -> None:
    mailer = SmtpMailer(SmtpServer("no-such-host.invalid", 25, Tls.OPPORTUNISTIC))
    exchange = await mailer.send(mail(), FROM, TO)
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.DNS,
        "The name of the mail server could not be resolved.",
    )


@pytest.mark.parametrize(
    "recipient", ["jo", "jo@example.com>\r\nRCPT TO:<victim@example.com", "jö@example.com"]
)
async def test_what_is_no_address_never_reaches_the_server(recipient: str) -> None:
    async with scripted() as script, mailer_to(script.port) as mailer:
        exchange = await mailer.send(mail(), FROM, recipient)
    assert (exchange.outcome, exchange.status, exchange.enhanced_status) == (
        AttemptOutcome.SMTP,
        553,
        "5.1.3",
    )
    assert exchange.recipient_refused
    assert "is not an email address" in (exchange.error or "")
    assert script.connections == 0


async def test_a_sender_that_is_no_address_says_nothing_about_the_recipient() -> None:
    async with scripted() as script, mailer_to(script.port) as mailer:
        exchange = await mailer.send(mail(), "jö@voltwire.example", TO)
    assert (exchange.outcome, exchange.recipient_refused) == (AttemptOutcome.CONNECTION, False)
    assert exchange.error == "The mail has no sender: “jö@voltwire.example” is not an email address."
    assert script.connections == 0


# Encryption and login


async def test_starttls_where_it_is_offered_even_with_a_certificate_nobody_knows(
    authority: Authority,
) -> None:
    async with good_server(tls_context=authority.server("127.0.0.1", self_signed=True)) as (port, inbox):
        assert (await send_once(port)).outcome is AttemptOutcome.SUCCEEDED
    assert inbox.sessions[0].ssl is not None


async def test_required_starttls_is_verified(authority: Authority) -> None:
    async with good_server(tls_context=authority.server("127.0.0.1")) as (port, inbox):
        good = await send_once(port, Tls.REQUIRED, ssl_context=authority.trust())
        unknown = await send_once(port, Tls.REQUIRED)
    assert (good.outcome, len(inbox.envelopes)) == (AttemptOutcome.SUCCEEDED, 1)
    assert inbox.sessions[0].ssl is not None
    assert unknown.outcome is AttemptOutcome.TLS
    assert (unknown.error or "").startswith("No encrypted connection to the mail server: ")


async def test_required_starttls_that_is_not_offered() -> None:
    async with scripted() as script:
        exchange = await send_once(script.port, Tls.REQUIRED, username="vw", password="secret")
    assert (exchange.outcome, exchange.error) == (
        AttemptOutcome.TLS,
        "The mail server does not offer STARTTLS, which is required.",
    )
    assert not {"MAIL", "AUTH"} & set(script.commands)


async def test_smtps(authority: Authority) -> None:
    async with good_server(authority.server("127.0.0.1")) as (port, inbox):
        good = await send_once(port, Tls.IMPLICIT, ssl_context=authority.trust())
        unknown = await send_once(port, Tls.IMPLICIT)
    assert (good.outcome, unknown.outcome) == (AttemptOutcome.SUCCEEDED, AttemptOutcome.TLS)
    assert len(inbox.envelopes) == 1


async def test_smtps_to_a_server_without_tls() -> None:
    async with scripted() as script:
        exchange = await send_once(script.port, Tls.IMPLICIT)
    assert exchange.outcome is AttemptOutcome.TLS


async def test_login(authority: Authority) -> None:
    def authenticate(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"vw", b"p@ss:word")
        return AuthResult(success=right, handled=False)

    options: dict[str, Any] = {"authenticator": authenticate, "auth_required": True}
    async with good_server(tls_context=authority.server("127.0.0.1"), **options) as (port, inbox):
        context = {"ssl_context": authority.trust()}
        good = await send_once(port, Tls.REQUIRED, username="vw", password="p@ss:word", **context)
        wrong = await send_once(port, Tls.REQUIRED, username="vw", password="wrong", **context)
    assert (good.outcome, len(inbox.envelopes)) == (AttemptOutcome.SUCCEEDED, 1)
    assert (wrong.outcome, wrong.status) == (AttemptOutcome.SMTP, 535)
    assert "wrong" not in (wrong.error or "")


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


# The folder


async def test_the_folder_keeps_each_mail_once(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path / "data" / "mail")
    for text in ("first\n", "second\n"):
        exchange = await mailer.send(mail(text), FROM, TO)
        assert (exchange.outcome, exchange.status) == (AttemptOutcome.SUCCEEDED, None)
    await mailer.send(mail(message_id="<dlv_2@voltwire.example>"), FROM, TO)
    await mailer.aclose()
    names = sorted(path.name for path in (tmp_path / "data" / "mail").iterdir())
    assert names == ["dlv_1@voltwire.example.eml", "dlv_2@voltwire.example.eml"]
    found = email.message_from_bytes((tmp_path / "data" / "mail" / names[0]).read_bytes())
    assert found.get_payload(0).get_payload() == "second\r\n"  # type: ignore[union-attr]


class WatchedSigner(Dkim):
    """Tells in which thread it signs."""

    threads: ClassVar[list[int]] = []

    def sign(self, content: bytes) -> bytes:
        self.threads.append(threading.get_ident())
        return super().sign(content)


async def test_mails_are_signed_beside_the_loop(tmp_path: Path) -> None:
    signer = WatchedSigner("voltwire.example", "s1", rsa.generate_private_key(65537, 2048))
    async with good_server() as (port, inbox), mailer_to(port, signer=signer) as mailer:
        await mailer.send(mail(), FROM, TO)
    await FolderMailer(tmp_path, signer).send(mail(), FROM, TO)
    (envelope,) = inbox.envelopes
    (file,) = tmp_path.iterdir()
    for content in (envelope.content, file.read_bytes()):
        assert isinstance(content, bytes)
        assert content.startswith(b"DKIM-Signature: v=1;")
    assert len(signer.threads) == 2
    assert threading.get_ident() not in signer.threads


@pytest.mark.parametrize("local", ["../../etc/passwd", "..", "a/b\\c", "x" * 300])
async def test_no_message_id_leaves_the_folder(tmp_path: Path, local: str) -> None:
    message = mail()
    del message["Message-ID"]
    message["Message-ID"] = f"<{local}@voltwire.example>"
    folder = tmp_path / "mail"
    exchange = await FolderMailer(folder).send(message, FROM, TO)
    assert exchange.outcome is AttemptOutcome.SUCCEEDED
    (path,) = (one for one in tmp_path.rglob("*") if one.is_file())
    assert path.parent == folder
    assert path.suffix == ".eml"
    assert not path.name.startswith(".")


async def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    exchange = await FolderMailer(tmp_path / "mail").send(mail(), FROM, TO)
    assert exchange.outcome is AttemptOutcome.CONNECTION
    assert exchange.error == "The mail could not be written: File exists."
