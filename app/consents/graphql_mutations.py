"""GraphQL mutations of hosted consents, with their inputs and payloads."""

from datetime import date
from typing import Any

import strawberry

from app.auth.actor import Actor
from app.consents import actions, decisions
from app.consents.graphql import HostedConsent
from app.consents.models import ConsentFlowType, ConsentMethod
from app.graphql.context import Info
from app.graphql.inputs import given
from app.graphql.mutations import UserError, mutate


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


@strawberry.type
class CreateHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateHostedConsentInput:
    hosted_consent_id: strawberry.ID
    description: str | None = strawberry.UNSET
    """The purpose, which the page shows, up to 2,000 characters."""
    expiry: date | None = strawberry.UNSET
    """Its last day, in the UK: today to ten years on; only while pending, and cannot be cleared."""
    idempotency_key: str | None = None


@strawberry.type
class UpdateHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


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


@strawberry.type
class ApproveHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class DeclineHostedConsentInput:
    token: str
    """The token of the consent's link, vw_consent_…."""
    reason: str | None = None
    """The reason, up to 2,000 characters, which is kept."""
    idempotency_key: str | None = None


@strawberry.type
class DeclineHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class RevokeHostedConsentInput:
    hosted_consent_id: strawberry.ID
    reason: str | None = None
    """The reason, up to 2,000 characters, which revocationReason shows."""
    idempotency_key: str | None = None


@strawberry.type
class RevokeHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.type
class ConsentMutations:
    @strawberry.mutation
    async def create_hosted_consent(
        self,
        info: Info,
        input: CreateHostedConsentInput,
    ) -> CreateHostedConsentPayload | None:
        """Ask a customer for consent; link leads to the page where it is decided."""
        values = given(
            input,
            *("customer_id", "flow_type", "expiry", "redirect_url", "description", "meter_numbers"),
            *("consent_method", "consentee_email", "consentee_full_name", "consentee_job_title"),
        )

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            keyring = info.context.services.keyring
            return {"hosted_consent": await actions.create(session, actor, keyring, **values)}

        return await mutate(info, input, CreateHostedConsentPayload, run)

    @strawberry.mutation
    async def update_hosted_consent(
        self,
        info: Info,
        input: UpdateHostedConsentInput,
    ) -> UpdateHostedConsentPayload | None:
        """Change a consent's description at any time, its expiry while pending."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            changes = given(input, "description", "expiry")
            return {"hosted_consent": await actions.update(session, actor, input.hosted_consent_id, changes)}

        return await mutate(info, input, UpdateHostedConsentPayload, run)

    @strawberry.mutation
    async def approve_hosted_consent(
        self,
        info: Info,
        input: ApproveHostedConsentInput,
    ) -> ApproveHostedConsentPayload | None:
        """Give a consent by the end customer's token, which alone decides; with hosted_consent.approved."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            consent = await decisions.approve(
                session,
                actor,
                full_name=input.consentee_full_name,
                email=input.consentee_email,
                job_title=input.consentee_job_title,
                meter_numbers=input.meter_numbers,
                privacy_contact=info.context.services.settings.privacy_contact,
            )
            return {"hosted_consent": consent}

        return await mutate(info, input, ApproveHostedConsentPayload, run, by=_token_holder(input.token))

    @strawberry.mutation
    async def decline_hosted_consent(
        self,
        info: Info,
        input: DeclineHostedConsentInput,
    ) -> DeclineHostedConsentPayload | None:
        """Refuse a consent by the end customer's token, which alone decides."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            return {"hosted_consent": await decisions.decline(session, actor, input.reason)}

        return await mutate(info, input, DeclineHostedConsentPayload, run, by=_token_holder(input.token))

    @strawberry.mutation
    async def revoke_hosted_consent(
        self,
        info: Info,
        input: RevokeHostedConsentInput,
    ) -> RevokeHostedConsentPayload | None:
        """End an approved consent, with hosted_consent.revoked; readings recorded before stay."""

        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            consent_id = input.hosted_consent_id
            return {"hosted_consent": await decisions.revoke(session, actor, consent_id, input.reason)}

        return await mutate(info, input, RevokeHostedConsentPayload, run)


def _token_holder(token: str) -> Any:
    return lambda session: actions.actor_by_token(session, token)
