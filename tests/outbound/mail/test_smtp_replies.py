"""Attempts by the replies of the server, and without one."""

import pytest

from app.outbound.attempt import AttemptOutcome
from app.outbound.mail.smtp import SmtpMailer
from app.outbound.mail.smtp_url import SmtpServer, Tls
from tests.outbound.mail.mail_servers import scripted
from tests.outbound.mail.mailers import FROM, TO, mail, mailer_to, send_once
from tests.services.ports import free_port

PATIENCE = 0.3
ENHANCED = "250-mail.example\r\n250 ENHANCEDSTATUSCODES"


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
        attempt = await mailer.send(mail(), FROM, TO)
        # The connection is good for the next mail.
        script.replies = {
            name: reply for name, reply in script.replies.items() if name not in (*replies, ".")
        }
        script.replies.setdefault("DATA", ["354 go on"])
        assert (await mailer.send(mail(), FROM, TO)).outcome is AttemptOutcome.SUCCEEDED
    assert (attempt.outcome, attempt.status, attempt.enhanced_status) == (
        AttemptOutcome.SMTP,
        status,
        enhanced,
    )
    assert attempt.recipient_refused is ("RCPT" in replies)
    assert (attempt.error or "").startswith(f"The mail server answered {status}: ")
    assert attempt.response_body
    assert script.connections == 1


@pytest.mark.parametrize("banner", ["554 no service", "421 busy", "450 later"])
async def test_a_server_that_refuses_the_connection_says_nothing_about_the_mail(banner: str) -> None:
    async with scripted(BANNER=banner) as script:
        attempt = await send_once(script.port)
    assert (attempt.outcome, attempt.status) == (AttemptOutcome.CONNECTION, int(banner[:3]))


@pytest.mark.parametrize("place", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
async def test_a_server_that_drops_the_connection(place: str) -> None:
    async with scripted(**{place: ""}) as script:
        attempt = await send_once(script.port)
    assert (attempt.outcome, attempt.status) == (AttemptOutcome.CONNECTION, None)
    assert (attempt.error or "").endswith(".")


@pytest.mark.parametrize("place", ["BANNER", "EHLO", "MAIL", "RCPT", "DATA", "END"])
async def test_a_server_that_hangs(place: str) -> None:
    async with scripted(**{place: None}) as script:
        attempt = await send_once(script.port, timeout=PATIENCE)
    assert (attempt.outcome, attempt.status, attempt.error) == (
        AttemptOutcome.TIMEOUT,
        None,
        "The mail server did not finish within 0.3 seconds.",
    )


async def test_nobody_listens() -> None:
    attempt = await send_once(free_port())
    assert (attempt.outcome, attempt.error) == (
        AttemptOutcome.CONNECTION,
        "No connection to the mail server: Connection refused.",
    )


async def test_a_server_without_a_name() -> None:
    mailer = SmtpMailer(SmtpServer("no-such-host.invalid", 25, Tls.OPPORTUNISTIC))
    attempt = await mailer.send(mail(), FROM, TO)
    assert (attempt.outcome, attempt.error) == (
        AttemptOutcome.DNS,
        "The name of the mail server could not be resolved.",
    )


@pytest.mark.parametrize(
    "recipient", ["jo", "jo@example.com>\r\nRCPT TO:<victim@example.com", "jö@example.com"]
)
async def test_what_is_no_address_never_reaches_the_server(recipient: str) -> None:
    async with scripted() as script, mailer_to(script.port) as mailer:
        attempt = await mailer.send(mail(), FROM, recipient)
    assert (attempt.outcome, attempt.status, attempt.enhanced_status) == (
        AttemptOutcome.SMTP,
        553,
        "5.1.3",
    )
    assert attempt.recipient_refused
    assert "is not an email address" in (attempt.error or "")
    assert script.connections == 0


async def test_a_sender_that_is_no_address_says_nothing_about_the_recipient() -> None:
    async with scripted() as script, mailer_to(script.port) as mailer:
        attempt = await mailer.send(mail(), "jö@voltwire.example", TO)
    assert (attempt.outcome, attempt.recipient_refused) == (AttemptOutcome.CONNECTION, False)
    assert attempt.error == "The mail has no sender: “jö@voltwire.example” is not an email address."
    assert script.connections == 0
