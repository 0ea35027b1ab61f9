"""The code that proves a consentee's address. It is mailed before the decision, stored as a keyed hash, and allows five
guesses.

Actions take a session and never commit. A wrong guess is returned, not raised, so that its count is committed.
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
from app.consents.decisions import validate_entries
from app.consents.models import HostedConsent
from app.consents.terms import Terms
from app.core import clock
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
    """A visitor's entries, stored until the decision."""

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
    # The address has no live code: it expired, was tried too often, or was never sent.
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
    """Stores the visitor's entries and mails a code to the address. A live code is not replaced unless `again` is set.

    Raises TOKEN_USED or TOKEN_EXPIRED; refusals of the input; LIMIT_REACHED at `consenteeEmail` within a minute of the
    last code, after `MAX_CODES`, and once the address has had its codes of the hour.
    """
    consent = await actions.lock_undecided(session, actor)
    at = clock.now()
    consent.require_digital()
    consentee, numbers = validate_entries(consent, full_name, email, job_title, meter_numbers)
    entered = [] if consent.meter_numbers else numbers
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
    """Compares a code with the one mailed to the address. A correct code proves the address; a wrong one is counted."""
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
    """Whether the address has a code that can still be entered."""
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
    # The mail has no link, because its reader must not decide without the page. It repeats nothing that the visitor
    # typed, because strangers must not be able to send their words to an address of their choice.
    account = without_links(terms.account)
    values: dict[str, Any] = {"code": code, "account": account, "privacy_contact": terms.privacy_contact}
    return Mail(
        subject=f"{code} is your code for the request by {account}",
        text=render("consent_code.txt", **values),
        html=render("consent_code.html", **values),
    )
