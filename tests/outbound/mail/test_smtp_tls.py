"""Encryption and login."""

from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from app.outbound.attempt import AttemptOutcome
from app.outbound.mail.smtp_url import Tls
from tests.delivery.receivers import Authority
from tests.outbound.mail.mail_servers import good_server, scripted
from tests.outbound.mail.mailers import send_once


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


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
        attempt = await send_once(script.port, Tls.REQUIRED, username="vw", password="secret")
    assert (attempt.outcome, attempt.error) == (
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
        attempt = await send_once(script.port, Tls.IMPLICIT)
    assert attempt.outcome is AttemptOutcome.TLS


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


async def test_a_login_that_the_server_does_not_offer() -> None:
    async with scripted() as script:
        attempt = await send_once(script.port, username="vw", password="secret")
    assert attempt.outcome is AttemptOutcome.CONNECTION
    assert attempt.error == (
        "The mail could not be handed over: The SMTP AUTH extension is not supported by this server. "
        "Try connecting via TLS (or STARTTLS)."
    )
