"""Mail over real sockets through kept connections."""

import asyncio
import email
import email.policy
from email.message import EmailMessage

import pytest

from app.outbound.attempt import Attempt, AttemptOutcome
from tests.outbound.mail.mail_servers import good_server, scripted
from tests.outbound.mail.mailers import FROM, TO, mail, mailer_to

ENOUGH = 1.0
"""Seconds within which a server that answers has taken a mail on any machine."""


async def test_a_mail_arrives() -> None:
    text = "Zähler 1\n.\n..\nFrom here on\n"
    async with good_server() as (port, inbox), mailer_to(port) as mailer:
        attempt = await mailer.send(mail(text), FROM, "jo@bücher.example")
    assert attempt == Attempt(
        attempt.started_at,
        attempt.duration_ms,
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
        attempts = await asyncio.gather(*(mailer.send(mail(), FROM, TO) for _ in range(30)))
        one_after_another = [await mailer.send(mail(), FROM, TO) for _ in range(3)]
    assert {one.outcome for one in [*attempts, *one_after_another]} == {AttemptOutcome.SUCCEEDED}
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
        attempts = await asyncio.gather(*(mailer.send(mail(), FROM, TO) for _ in range(3)))
    assert [one.outcome.value for one in attempts] == ["TIMEOUT", "TIMEOUT", "SUCCEEDED"]
    assert script.connections == 3


async def test_a_connection_that_does_not_become_free() -> None:
    async with good_server() as (port, inbox), mailer_to(port, connections=1, longest_wait=0.05) as mailer:
        inbox.stuck.add(TO)
        stuck = asyncio.create_task(mailer.send(mail(), FROM, TO))
        await inbox.hung.wait_for(1)
        attempt = await mailer.send(mail(), FROM, "ann@example.com")
        inbox.let_go.set()
        assert (await stuck).outcome is AttemptOutcome.SUCCEEDED
        after = await mailer.send(mail(), FROM, "ann@example.com")
    assert (attempt.outcome, attempt.error) == (
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
