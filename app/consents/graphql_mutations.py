"""GraphQL mutations of hosted consents, with their inputs and payloads."""

from datetime import date
from typing import Any

import strawberry
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.consents import actions, decisions
from app.consents.graphql import HostedConsent
from app.consents.models import ConsentFlowType, ConsentMethod
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import MutationContext, mutation


@strawberry.input
class CreateHostedConsentInput:
    customer_id: strawberry.ID
    """The id of the customer to ask."""
    flow_type: ConsentFlowType
    """The meters that it is to cover."""
    expiry: date
    """Its last day, in the UK: today to ten years on."""
    redirect_url: str
    """An https link (http for localhost) that the page leads back to."""
    description: str | None = None
    """The purpose, which the page shows, up to 2,000 characters."""
    meter_numbers: list[str] | None = None
    """The numbers that it names, 1,000 at most; without any, the page asks for them in a residential one."""
    consent_method: ConsentMethod | None = None
    """The way in which it is to be given; DIGITAL_CONSENT unless given."""
    consentee_email: str | None = None
    """The mail address of the person who is to decide, already filled in on the page."""
    consentee_full_name: str | None = None
    """The full name of that person, up to 200 characters, already filled in on the page."""
    consentee_job_title: str | None = None
    """The job title of that person, up to 200 characters, already filled in on the page."""
    idempotency_key: str | None = None


@strawberry.input
class UpdateHostedConsentInput:
    hosted_consent_id: strawberry.ID
    description: str | None = strawberry.UNSET
    """The purpose, which the page shows, up to 2,000 characters."""
    expiry: date | None = strawberry.UNSET
    """Its last day, in the UK: today to ten years on; only while pending, and cannot be cleared."""
    idempotency_key: str | None = None


@strawberry.input
class ApproveHostedConsentInput:
    token: str
    """The token of the consent's link, vw_consent_…."""
    consentee_full_name: str
    """The person who agrees, by full name, up to 200 characters."""
    consentee_email: str
    """The mail address of the person who agrees."""
    consentee_job_title: str | None = None
    """The job title of the person who agrees, up to 200 characters."""
    meter_numbers: list[str] | None = None
    """The numbers agreed to, where the request names none; otherwise the same or left out."""
    idempotency_key: str | None = None


@strawberry.input
class DeclineHostedConsentInput:
    token: str
    """The token of the consent's link, vw_consent_…."""
    reason: str | None = None
    """The reason, up to 2,000 characters, which is kept."""
    idempotency_key: str | None = None


@strawberry.input
class RevokeHostedConsentInput:
    hosted_consent_id: strawberry.ID
    reason: str | None = None
    """The reason, up to 2,000 characters, which revocationReason shows."""
    idempotency_key: str | None = None


async def _token_holder(session: AsyncSession, input: Any) -> Actor:
    return await actions.actor_by_token(session, input.token)


@strawberry.type
class ConsentMutations:
    @mutation(hosted_consent=HostedConsent)
    async def create_hosted_consent(
        self, context: MutationContext, input: CreateHostedConsentInput
    ) -> Result:
        """Ask a customer for consent; link leads to the page where it is decided."""
        values = given(
            input,
            *("customer_id", "flow_type", "expiry", "redirect_url", "description", "meter_numbers"),
            *("consent_method", "consentee_email", "consentee_full_name", "consentee_job_title"),
        )
        keyring = context.services.keyring
        return {"hosted_consent": await actions.create(context.session, context.actor, keyring, **values)}

    @mutation(hosted_consent=HostedConsent)
    async def update_hosted_consent(
        self, context: MutationContext, input: UpdateHostedConsentInput
    ) -> Result:
        """Change a consent's description at any time, its expiry while pending."""
        changes = given(input, "description", "expiry")
        return {
            "hosted_consent": await actions.update(
                context.session, context.actor, input.hosted_consent_id, changes
            )
        }

    @mutation(hosted_consent=HostedConsent, by=_token_holder)
    async def approve_hosted_consent(
        self, context: MutationContext, input: ApproveHostedConsentInput
    ) -> Result:
        """Give a consent by the end customer's token, which alone decides; with hosted_consent.approved."""
        consent = await decisions.approve(
            context.session,
            context.actor,
            full_name=input.consentee_full_name,
            email=input.consentee_email,
            job_title=input.consentee_job_title,
            meter_numbers=input.meter_numbers,
            privacy_contact=context.services.settings.privacy_contact,
        )
        return {"hosted_consent": consent}

    @mutation(hosted_consent=HostedConsent, by=_token_holder)
    async def decline_hosted_consent(
        self, context: MutationContext, input: DeclineHostedConsentInput
    ) -> Result:
        """Refuse a consent by the end customer's token, which alone decides; with hosted_consent.declined."""
        return {"hosted_consent": await decisions.decline(context.session, context.actor, input.reason)}

    @mutation(hosted_consent=HostedConsent)
    async def revoke_hosted_consent(
        self, context: MutationContext, input: RevokeHostedConsentInput
    ) -> Result:
        """End an approved consent, with hosted_consent.revoked; readings recorded before stay."""
        consent_id = input.hosted_consent_id
        return {
            "hosted_consent": await decisions.revoke(context.session, context.actor, consent_id, input.reason)
        }
