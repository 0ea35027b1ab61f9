"""Actions on consent requests: create, update, find by id or token. Each takes a session and never commits."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

from sqlalchemy import Select
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, Scope, visible
from app.consents import coverage
from app.consents.models import ConsentFlowType, ConsentMethod, ConsentStatus, HostedConsent
from app.core import clock, validation
from app.core.crypto import Keyring, digest, random_token
from app.core.errors import ErrorCode, Refusal, Refusals, not_found
from app.core.ids import is_id
from app.customers import actions as customers
from app.db.database import run_script
from app.meters import numbers

TOKEN_PREFIX: Final = "vw_consent_"  # noqa: S105 - a prefix, not a token
MAX_DURATION: Final = timedelta(days=3653)
MAX_METER_NUMBERS: Final = 1000


async def create(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    *,
    customer_id: str,
    flow_type: ConsentFlowType,
    expiry: date,
    redirect_url: str,
    description: str | None = None,
    meter_numbers: Sequence[str] | None = None,
    consent_method: ConsentMethod | None = None,
    consentee_email: str | None = None,
    consentee_full_name: str | None = None,
    consentee_job_title: str | None = None,
) -> HostedConsent:
    """Creates a consent request; only the token in the link to its page can approve it."""
    # The lock makes sure that a meter created at the same time is linked, by this action or by the meter's.
    customer = await run_script(session, customers.find(actor, customer_id, "customerId", lock=True))
    method = consent_method or ConsentMethod.DIGITAL_CONSENT
    valid = validation.validate_all(
        expiry=lambda: validate_expiry(expiry),
        redirect_url=lambda: validation.redirect_url(redirect_url, "redirectUrl"),
        description=lambda: validation.optional_text(description, "description"),
        meter_numbers=lambda: parse_meter_numbers(meter_numbers or ()),
        consentee_email=lambda: _email(consentee_email),
        consentee_full_name=lambda: _name(consentee_full_name, "consenteeFullName"),
        consentee_job_title=lambda: _name(consentee_job_title, "consenteeJobTitle"),
    )
    if flow_type is ConsentFlowType.GB_RESIDENTIAL_SPECIFIC and not valid["meter_numbers"]:
        _require_page(method)
    token = random_token(TOKEN_PREFIX)
    consent = HostedConsent(
        **valid,
        account_id=actor.account_id,
        customer_id=customer.id,
        flow_type=flow_type.name,
        consent_method=method.value,
        expires_at=clock.end_of_uk_day(expiry),
        token_hash=digest(token),
        token_encrypted=keyring.encrypt(token),
    )
    session.add(consent)
    await session.flush()
    await coverage.link_meters(session, consent)
    return consent


async def update(
    session: AsyncSession, actor: Actor, consent_id: str, changes: dict[str, Any]
) -> HostedConsent:
    """Applies the given `changes`: `description` at any time, `expiry` while pending. Raises CONFLICT."""
    consent = await load(session, actor, consent_id, "hostedConsentId", lock=True)
    checks = {
        "description": lambda value: validation.optional_text(value, "description"),
        "expiry": lambda value: _new_expiry(consent, value),
    }
    valid = validation.validate_changes(checks, changes)
    if "description" in valid:
        consent.description = valid["description"]
    if "expiry" in valid:
        consent.expire_on(valid["expiry"])
    consent.updated_at = clock.now()
    return consent


async def load(
    session: AsyncSession, actor: Actor, consent_id: str | None, *field: str, lock: bool = False
) -> HostedConsent:
    """Loads a consent; `lock` reads it anew and holds off concurrent decisions. Raises NOT_FOUND."""
    if not is_id(consent_id or "", "hc"):
        raise not_found("hosted consent", *field)
    statement = visible(select(HostedConsent).where(col(HostedConsent.id) == consent_id), actor)
    if lock:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    consent: HostedConsent | None = (await session.execute(statement)).scalar_one_or_none()
    if consent is None:
        raise not_found("hosted consent", *field)
    return consent


async def lock_undecided(session: AsyncSession, actor: Actor) -> HostedConsent:
    """Locks the pending consent of the actor's token. Raises NOT_FOUND, TOKEN_USED or TOKEN_EXPIRED.

    The customer is locked first, as everywhere, because deleting a customer deletes its consents.
    """
    await run_script(session, customers.find(actor, actor.customer_id or "", "token", lock=True))
    consent = await load(session, actor, actor.consent_id, "token", lock=True)
    consent.require_undecided(clock.now())
    return consent


def select_by_token(token: str) -> Select[Any]:
    """Selects the consent of a token, expired or not."""
    return select(HostedConsent).where(col(HostedConsent.token_hash) == digest(token))


async def find_by_token(session: AsyncSession, token: str) -> HostedConsent | None:
    """The consent of a token, expired or not; None if there is none."""
    consent: HostedConsent | None = (await session.execute(select_by_token(token))).scalar_one_or_none()
    return consent


def token_holder(consent: HostedConsent) -> Actor:
    """The actor of the consent's token, which shows the consent, its customer and the meters it covers."""
    return Actor(
        account_id=consent.account_id,
        scopes=frozenset({Scope.READ}),
        customer_id=consent.customer_id,
        consent_id=consent.id,
    )


async def actor_by_token(session: AsyncSession, token: str) -> Actor:
    """The actor of a token, even an expired one. Raises NOT_FOUND at `token`."""
    consent = await find_by_token(session, token)
    if consent is None:
        raise Refusal(
            ErrorCode.NOT_FOUND, "There is no such consent request; check the link you were sent.", "token"
        )
    return token_holder(consent)


async def operator_of(session: AsyncSession, consent_id: str) -> Actor:
    """The operator as an actor of the consent's account. Raises NOT_FOUND."""
    statement = select(col(HostedConsent.account_id)).where(col(HostedConsent.id) == consent_id)
    account_id = (await session.execute(statement)).scalar_one_or_none()
    if account_id is None:
        raise not_found("hosted consent", "hostedConsentId")
    return Actor(account_id=account_id, scopes=frozenset({Scope.WRITE}))


def parse_meter_numbers(values: Sequence[str]) -> list[str]:
    """Normalizes meter numbers and drops repeats. Raises INVALID_METER_NUMBER for each wrong number, by its index."""
    if len(values) > MAX_METER_NUMBERS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED, f"Give at most {MAX_METER_NUMBERS} meter numbers.", "meterNumbers"
        )
    found, wrong = [], []
    for index, value in enumerate(values):
        try:
            found.append(numbers.parse(value).core)
        except numbers.InvalidMeterNumber as error:
            wrong.append(Refusal(ErrorCode.INVALID_METER_NUMBER, str(error), "meterNumbers", str(index)))
    if wrong:
        raise Refusals(wrong)
    return list(dict.fromkeys(found))


def validate_expiry(day: date | None) -> date:
    """Accepts an expiry from today in the UK to ten years on. Raises REQUIRED or OUT_OF_RANGE."""
    if day is None:
        raise Refusal(ErrorCode.REQUIRED, "expiry cannot be cleared.", "expiry")
    today = clock.uk_date(clock.now())
    if not today <= day <= today + MAX_DURATION:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"expiry must be {today} (today in the UK) to {today + MAX_DURATION}, got {day}.",
            "expiry",
        )
    return day


def _new_expiry(consent: HostedConsent, day: date | None) -> date:
    if consent.status(clock.now()) is not ConsentStatus.PENDING:
        raise Refusal(
            ErrorCode.CONFLICT,
            "The expiry can only be changed while the consent is pending; ask for a new consent instead.",
            "expiry",
        )
    return validate_expiry(day)


def _email(value: str | None) -> str | None:
    return validation.email(value, "consenteeEmail") if value and value.strip() else None


def _name(value: str | None, field: str) -> str | None:
    return validation.optional_text(value, field, most=validation.MAX_NAME)


def _require_page(method: ConsentMethod) -> None:
    # Only the page can ask for numbers; an uploaded document must be about known meters.
    if method is not ConsentMethod.DIGITAL_CONSENT:
        raise Refusal(
            ErrorCode.REQUIRED,
            f"Give the meterNumbers that the document is about: a residential consent by {method.value} needs them.",
            "meterNumbers",
        )
