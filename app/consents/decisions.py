"""Decisions on a consent: approve, decline, revoke, approve by document. Each takes a session and never commits.

Each locks the row before it checks whether the consent may still be decided. Where meters are linked, the customer's
row is locked first, in the same order as everywhere, so that a meter created at the same time is covered as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.consents import actions, coverage, documents
from app.consents.actions import parse_meter_numbers
from app.consents.events import HostedConsentApproved, HostedConsentDeclined, HostedConsentRevoked
from app.consents.models import ConsentMethod, ConsentStatus, Evidence, HostedConsent
from app.consents.terms import PAGE_VERSION, Terms
from app.core import clock, validation
from app.core.errors import ErrorCode, Refusal
from app.customers import actions as customers
from app.db.database import run_script
from app.events import log
from app.feeds import backfill_plans
from app.meters import actions as meters

# The ways in which an end customer decides, in the words of the evidence.
ON_PAGE: Final = "on the consent page"
BY_API: Final = "with the token of the consent page, sent to the API"


@dataclass(frozen=True)
class Consentee:
    """The person who gives the consent."""

    full_name: str
    email: str
    job_title: str | None

    @classmethod
    def validated(cls, full_name: str, email: str, job_title: str | None) -> Self:
        """Raises Refusals at the GraphQL names of the fields."""
        return cls(
            **validation.validate_all(
                full_name=lambda: validation.required_text(full_name, "consenteeFullName"),
                email=lambda: validation.email(email, "consenteeEmail"),
                job_title=lambda: validation.optional_text(
                    job_title, "consenteeJobTitle", most=validation.MAX_NAME
                ),
            )
        )


async def approve(
    session: AsyncSession,
    actor: Actor,
    *,
    full_name: str,
    email: str,
    job_title: str | None = None,
    meter_numbers: Sequence[str] | None = None,
    privacy_contact: str,
    way: str = BY_API,
) -> HostedConsent:
    """Approves the consent of the actor's token and writes its evidence.

    Raises TOKEN_USED or TOKEN_EXPIRED; CONFLICT for a consent that needs a document; refusals of the input.
    """
    consent = await actions.lock_undecided(session, actor)
    consent.require_digital()
    consentee, numbers = validate_entries(consent, full_name, email, job_title, meter_numbers)
    consent.consentee_full_name = consentee.full_name
    consent.consentee_email = consentee.email
    consent.consentee_job_title = consentee.job_title
    consent.meter_numbers = numbers
    consent.page_version = PAGE_VERSION
    at = clock.now()
    await _approve(session, consent, at)
    terms = await Terms.of(session, consent, privacy_contact)
    await documents.store(session, consent, documents.approval_record(consent, terms, at, way))
    return consent


async def decline(session: AsyncSession, actor: Actor, reason: str | None = None) -> HostedConsent:
    """Declines the consent of the actor's token. Raises TOKEN_USED or TOKEN_EXPIRED."""
    consent = await actions.load(session, actor, actor.consent_id, "token", lock=True)
    at = clock.now()
    consent.require_undecided(at)
    consent.decline(validation.optional_text(reason, "reason"), at)
    asked_for = await coverage.covered_meters(session, consent.id)
    event = HostedConsentDeclined.of(consent, ConsentStatus.DECLINED, asked_for)
    log.append(session, consent.account_id, event)
    return consent


async def revoke(
    session: AsyncSession, actor: Actor, consent_id: str, reason: str | None = None
) -> HostedConsent:
    """Ends an approved consent, and what is fetched by it; recorded readings stay readable.

    Raises NOT_FOUND or CONFLICT.
    """
    known = await actions.load(session, actor, consent_id, "hostedConsentId")
    await run_script(session, customers.find(actor, known.customer_id, lock=True))
    consent = await actions.load(session, actor, consent_id, "hostedConsentId", lock=True)
    consent.revoke(validation.optional_text(reason, "reason"), clock.now())
    await session.flush()
    covered = await coverage.covered_meters(session, consent.id)
    await run_script(session, backfill_plans.end_where_not_consented([meter.id for meter in covered]))
    log.append(session, consent.account_id, HostedConsentRevoked.of(consent, ConsentStatus.REVOKED, covered))
    return consent


async def approve_by_document(
    session: AsyncSession,
    actor: Actor,
    consent_id: str,
    document_type: documents.DocumentType,
    content: bytes,
) -> tuple[Evidence, bool]:
    """Stores an uploaded document and approves its consent. Returns the evidence and whether it is new.

    Uploading the same document again changes nothing. Raises NOT_FOUND; CONFLICT when the consent takes no document or
    is no longer pending.
    """
    known = await actions.load(session, actor, consent_id)
    await run_script(session, customers.find(actor, known.customer_id, lock=True))
    consent = await actions.load(session, actor, consent_id, lock=True)
    if consent.consent_method == ConsentMethod.DIGITAL_CONSENT.value:
        raise Refusal(
            ErrorCode.CONFLICT,
            "The end customer gives this consent on its page; no document can be uploaded for it.",
        )
    document = documents.uploaded_document(consent, document_type, content)
    before = await documents.find_evidence(session, actor, consent.id)
    if before is not None and before.sha256 == document.sha256:
        return before, False
    at = clock.now()
    if consent.status(at) is not ConsentStatus.PENDING:
        raise Refusal(
            ErrorCode.CONFLICT,
            f"Only a pending consent takes a document; this one is {consent.status(at).value.lower()}.",
        )
    await _approve(session, consent, at)
    return await documents.store(session, consent, document), True


def validate_entries(
    consent: HostedConsent,
    full_name: str,
    email: str,
    job_title: str | None,
    meter_numbers: Sequence[str] | None,
) -> tuple[Consentee, list[str]]:
    """The consentee and the agreed meter numbers. Raises Refusals with everything that is wrong with them."""
    valid = validation.validate_all(
        consentee=lambda: Consentee.validated(full_name, email, job_title),
        numbers=lambda: _agreed_numbers(consent, meter_numbers),
    )
    return valid["consentee"], valid["numbers"]


def _agreed_numbers(consent: HostedConsent, given: Sequence[str] | None) -> list[str]:
    """The meter numbers of an approval: the request's, or the given ones where the request names none.

    Raises INVALID_METER_NUMBER, INVALID for numbers that differ from the request's, REQUIRED when there are none.
    """
    numbers = parse_meter_numbers(given or ())
    if numbers and consent.meter_numbers and set(numbers) != set(consent.meter_numbers):
        raise Refusal(
            ErrorCode.INVALID,
            "This consent is about other meters; leave meterNumbers out to agree to those it names.",
            "meterNumbers",
        )
    agreed = consent.meter_numbers or numbers
    if not agreed and consent.names_meters:
        raise Refusal(ErrorCode.REQUIRED, "Give the number of at least one meter.", "meterNumbers")
    return agreed


async def _approve(session: AsyncSession, consent: HostedConsent, at: datetime) -> None:
    """Creates missing meters, approves, links the meters, begins backfills and appends the event, in this order."""
    await session.flush()
    holder = actions.token_holder(consent)
    customer = await run_script(session, customers.find(holder, consent.customer_id))
    await run_script(session, meters.find_or_create(session, customer, consent.meter_numbers))
    consent.approve(at)
    await session.flush()
    await coverage.link_meters(session, consent)
    covered = await coverage.covered_meters(session, consent.id)
    begun = backfill_plans.begin_where_consented(session, [meter.id for meter in covered])
    await run_script(session, begun)
    log.append(
        session, consent.account_id, HostedConsentApproved.of(consent, ConsentStatus.APPROVED, covered)
    )
