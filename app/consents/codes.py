"""The code that proves a consentee's address: mailed before the decision, kept as a keyed hash, five guesses at most.

Verbs take a session and never commit. A wrong guess is an answer and no exception, so that counting it is committed.
"""

import enum
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.consents import actions
from app.consents.decisions import Consentee, agreed_numbers
from app.consents.models import HostedConsent
from app.consents.terms import Terms
from app.core import clock, validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.events.publisher import work_due
from app.outbound.mail import unconfirmed
from app.outbound.mail.link_removal import without_links
from app.outbound.mail.mail_queue import enqueue
from app.outbound.mail.rendering import Mail
from app.web.render import render

CODE_LIFETIME: Final = timedelta(minutes=10)
RESEND_AFTER: Final = timedelta(minutes=1)
MAX_TRIES: Final = 5
MAX_CODES: Final = 20
PURPOSE: Final = "consent code"


@dataclass(frozen=True)
class Draft:
    """What a visitor entered, kept until the decision."""

    full_name: str
    email: str
    job_title: str | None
    meter_numbers: list[str]

    @classmethod
    def of(cls, consent: HostedConsent) -> Self | None:
        return None if consent.draft is None else cls(**consent.draft)


class CodeCheck(enum.Enum):
    CORRECT = "correct"
    WRONG = "wrong"
    # There is no live code for this address: it ran out, was tried too often, or was never sent.
    EXPIRED = "expired"


async def send_code(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    *,
    full_name: str,
    email: str,
    job_title: str | None = None,
    meter_numbers: Sequence[str] | None = None,
    privacy_contact: str,
    again: bool = False,
) -> None:
    """Keep what the visitor entered and mail a code to the address; a live one is enough unless asked for another.

    Raises TOKEN_USED or TOKEN_EXPIRED; what is wrong with the input; LIMIT_REACHED at `consenteeEmail` within a minute
    of the last code, after the last of `MAX_CODES`, and once the address has had its codes of the hour.
    """
    consent = await actions.lock_undecided(session, actor)
    at = clock.now()
    consent.require_digital()
    valid = validation.validate_all(
        consentee=lambda: Consentee.validated(full_name, email, job_title),
        numbers=lambda: agreed_numbers(consent, meter_numbers),
    )
    consentee: Consentee = valid["consentee"]
    entered = [] if consent.meter_numbers else valid["numbers"]
    consent.draft = asdict(Draft(**vars(consentee), meter_numbers=entered))
    if again or not is_code_live(consent, consentee.email, at):
        _require_resend_allowed(consent, at)
        await unconfirmed.count(
            *(session, keyring, unconfirmed.Kind.CODE, consent.account_id, consentee.email), "consenteeEmail"
        )
        code = f"{secrets.randbelow(1_000_000):06}"
        terms = await Terms.of(session, consent, privacy_contact)
        _store_code(consent, keyring, consentee.email, code, at)
        mail = _mail(terms, code)
        enqueue(session, keyring, consent.account_id, consentee.email, mail, consent.id)
        work_due(session, consent.account_id)
    await session.flush()


async def verify_code(
    session: AsyncSession, actor: Actor, keyring: Keyring, email: str, code: str
) -> CodeCheck:
    """Whether this is the code mailed to the address; a right one proves the address, a wrong one is counted."""
    consent = await actions.lock_undecided(session, actor)
    at = clock.now()
    if not is_code_live(consent, email, at):
        return CodeCheck.EXPIRED
    digits = "".join(one for one in code if one.isascii() and one.isdigit())
    if not keyring.verifies(
        PURPOSE, _signed_message(consent, email, digits), bytes.fromhex(consent.code_hash or "")
    ):
        consent.code_tries += 1
        return CodeCheck.WRONG if consent.code_tries < MAX_TRIES else CodeCheck.EXPIRED
    consent.verified_email = email
    consent.code_hash = None
    return CodeCheck.CORRECT


def is_code_live(consent: HostedConsent, email: str, at: datetime) -> bool:
    """Whether a code for this address can still be entered."""
    return (
        consent.code_hash is not None
        and consent.code_email == email
        and consent.code_until is not None
        and at < consent.code_until
        and consent.code_tries < MAX_TRIES
    )


def _require_resend_allowed(consent: HostedConsent, at: datetime) -> None:
    if consent.codes_sent >= MAX_CODES:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            "Too many codes were sent for this request; ask whoever sent you the link for a new one.",
            "consenteeEmail",
        )
    if consent.code_sent_at is not None and at < consent.code_sent_at + RESEND_AFTER:
        wait = -((at - consent.code_sent_at - RESEND_AFTER) // timedelta(seconds=1))
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"A code was sent less than a minute ago; wait {wait} seconds before asking for another.",
            "consenteeEmail",
        )


def _store_code(consent: HostedConsent, keyring: Keyring, email: str, code: str, at: datetime) -> None:
    consent.code_hash = keyring.sign(PURPOSE, _signed_message(consent, email, code)).hex()
    consent.code_email = email
    consent.code_until = at + CODE_LIFETIME
    consent.code_sent_at = at
    consent.code_tries = 0
    consent.codes_sent += 1


def _signed_message(consent: HostedConsent, email: str, code: str) -> bytes:
    return f"{consent.id}\n{email}\n{code}".encode()


def _mail(terms: Terms, code: str) -> Mail:
    # No link, for who reads the mail must not decide without having the page; and nothing that the visitor typed, for
    # the mail must not carry a stranger's words to an address of their choice.
    account = without_links(terms.account)
    values: dict[str, Any] = {"code": code, "account": account, "privacy_contact": terms.privacy_contact}
    return Mail(
        subject=f"{code} is your code for the request by {account}",
        text=render("consent_code.txt", **values),
        html=render("consent_code.html", **values),
    )
