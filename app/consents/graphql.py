"""Hosted consents and their evidence in GraphQL."""

from collections.abc import Hashable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import Select, or_, select
from sqlmodel import col

from app import clock
from app.api.compiled.declare import Asked, Many, compiled, computed, one
from app.api.compiled.reads import connection
from app.api.compiled.reads import one as read_one
from app.api.context import Context, Info, Services
from app.api.inputs import given, given_values, require_bounded
from app.api.mutate import UserError, mutate
from app.api.nodes import Node, find, find_owner, shown, shows
from app.api.pagination import Connection, nested_pages, page_request
from app.auth.actor import Actor, Scope, visible
from app.consents import actions, decisions, documents, models
from app.consents.evidence import evidence_url
from app.consents.models import ConsentFlowType, ConsentMeter, ConsentMethod, ConsentStatus, Decision
from app.customers.models import Customer as CustomerRow
from app.events.catalogue import EventType
from app.events.graphql import Event, event_type
from app.events.models import EventRecord
from app.meters.models import Meter as MeterRow

if TYPE_CHECKING:
    from app.customers.graphql import Customer
    from app.meters.graphql import Meter

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyMeter = Annotated["Meter", strawberry.lazy("app.meters.graphql")]

for _kind in (ConsentFlowType, ConsentStatus, ConsentMethod):
    strawberry.enum(_kind)


def _link(
    services: Services, viewer: Actor, identifier: str, status: ConsentStatus, token_encrypted: str
) -> str | None:
    may = viewer.may(Scope.WRITE) or viewer.consent_id == identifier
    if status is not ConsentStatus.PENDING or not may:
        return None
    return f"{services.public_url}/consents/{services.keyring.decrypt(token_encrypted)}"


def _compiled_link(asked: Asked, identifier: str, decision: str, expires_at: datetime, token: str) -> Any:
    status = Decision(decision, expires_at).status(asked.at)
    return _link(asked.services, asked.viewer, identifier, status, token)


@shows(models.HostedConsent, "hc")
@compiled(
    models.HostedConsent,
    flow_code=computed(lambda _, name: ConsentFlowType[name].value, "flow_type"),
    status=computed(lambda asked, *decision: Decision(*decision).status(asked.at), "decision", "expires_at"),
    valid=computed(lambda asked, *decision: Decision(*decision).is_valid(asked.at), "decision", "expires_at"),
    consented_at=computed(lambda _, *decided: models.consented_at(*decided), "decision", "decided_at"),
    link=computed(_compiled_link, "id", "decision", "expires_at", "token_encrypted"),
    customer=one("customer_id"),
    meters=Many(
        ConsentMeter.hosted_consent_id,
        ConsentMeter,
        col(ConsentMeter.meter_id) == col(MeterRow.id),
        col(ConsentMeter.meter_id),
    ),
)
@strawberry.type
class HostedConsent(Node):
    id: strawberry.ID
    description: str | None
    flow_type: ConsentFlowType
    flow_code: str = strawberry.field(description='"gb.residential.specific"')
    status: ConsentStatus
    valid: bool = strawberry.field(
        description="Approved, not revoked, not past the end of its expiry day in the UK."
    )
    meter_numbers: list[str]
    expiry: date
    redirect_url: str
    consent_method: ConsentMethod
    consentee_full_name: str | None
    consentee_email: str | None
    consentee_email_verified: bool
    consentee_job_title: str | None
    page_version: str | None = strawberry.field(
        description="The version of the page that was shown, for audits."
    )
    consented_at: datetime | None
    revoked_at: datetime | None
    revocation_reason: str | None
    created_at: datetime
    updated_at: datetime
    row: strawberry.Private[models.HostedConsent]
    viewer: strawberry.Private[Actor]

    @classmethod
    def of(cls, row: models.HostedConsent, viewer: Actor) -> "HostedConsent":
        status = row.status(clock.now())
        return cls(
            id=strawberry.ID(row.id),
            description=row.description,
            flow_type=ConsentFlowType[row.flow_type],
            flow_code=ConsentFlowType[row.flow_type].value,
            status=status,
            valid=status is ConsentStatus.APPROVED,
            meter_numbers=row.meter_numbers,
            expiry=row.expiry,
            redirect_url=row.redirect_url,
            consent_method=ConsentMethod(row.consent_method),
            consentee_full_name=row.consentee_full_name,
            consentee_email=row.consentee_email,
            consentee_email_verified=row.consentee_email_verified,
            consentee_job_title=row.consentee_job_title,
            page_version=row.page_version,
            consented_at=row.consented_at,
            revoked_at=row.revoked_at,
            revocation_reason=row.revocation_reason,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
            viewer=viewer,
        )

    @strawberry.field(description="Only while pending, to WRITE keys and the end customer's own token.")
    def link(self, info: Info) -> str | None:
        return _link(info.context.services, self.viewer, self.row.id, self.status, self.row.token_encrypted)

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer:
        found: Customer = await find_owner(info.context, self.viewer, CustomerRow, self.row.customer_id)
        return found

    @strawberry.field
    async def meters(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> Connection[LazyMeter]:
        request = page_request(first, after, last, before)
        covers, viewer, context = col(ConsentMeter.hosted_consent_id), self.viewer, info.context

        async def load(consent_ids: list[str]) -> Any:
            statement = visible(
                select(MeterRow).join(ConsentMeter, col(ConsentMeter.meter_id) == col(MeterRow.id)), viewer
            )
            return await nested_pages(context, statement, request, col(MeterRow.id), covers, consent_ids)

        page = await context.loader(("meters of consent", request, viewer), load).load(self.row.id)
        return Connection.of(page, lambda row: shown(row, viewer))


@shows(models.Evidence, "evd")
@compiled(
    models.Evidence,
    hosted_consent=one("hosted_consent_id"),
    url=computed(lambda asked, consent_id: evidence_url(asked.services, consent_id), "hosted_consent_id"),
)
@strawberry.type
class HostedConsentEvidence(Node):
    id: strawberry.ID
    file_name: str
    content_type: str
    size: int
    sha256: str
    page_version: str | None
    created_at: datetime
    row: strawberry.Private[models.Evidence]
    viewer: strawberry.Private[Actor]

    @classmethod
    def of(cls, row: models.Evidence, viewer: Actor) -> "HostedConsentEvidence":
        return cls(
            id=strawberry.ID(row.id),
            file_name=row.file_name,
            content_type=row.content_type,
            size=row.size,
            sha256=row.sha256,
            page_version=row.page_version,
            created_at=row.created_at,
            row=row,
            viewer=viewer,
        )

    @strawberry.field
    async def hosted_consent(self, info: Info) -> HostedConsent:
        row = await find(info.context, self.viewer, models.HostedConsent, self.row.hosted_consent_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]

    @strawberry.field
    def url(self, info: Info) -> str:
        return evidence_url(info.context.services, self.row.hosted_consent_id)


async def _consent_of(event: Event, context: Context) -> Any:
    row = await find(context, event.viewer, models.HostedConsent, event.record.subject_id)
    return shown(row, event.viewer)


async def _customer_of(event: Event, context: Context) -> Any:
    row = await find(context, event.viewer, CustomerRow, event.record.customer_id or "")
    return shown(row, event.viewer)


@event_type(EventType.HOSTED_CONSENT_APPROVED)
@compiled(EventRecord, hosted_consent=one("subject_id"), customer=one("customer_id"))
@strawberry.type
class HostedConsentApprovedEvent(Event):
    @strawberry.field
    async def hosted_consent(self, info: Info) -> HostedConsent | None:
        return await _consent_of(self, info.context)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        return await _customer_of(self, info.context)  # type: ignore[no-any-return]


@event_type(EventType.HOSTED_CONSENT_REVOKED)
@compiled(EventRecord, hosted_consent=one("subject_id"), customer=one("customer_id"))
@strawberry.type
class HostedConsentRevokedEvent(Event):
    @strawberry.field
    async def hosted_consent(self, info: Info) -> HostedConsent | None:
        return await _consent_of(self, info.context)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        return await _customer_of(self, info.context)  # type: ignore[no-any-return]


@strawberry.input
class HostedConsentFilter:
    customer_ids: list[strawberry.ID] | None = None
    statuses: list[ConsentStatus] | None = None
    flow_types: list[ConsentFlowType] | None = None
    valid: bool | None = None

    def wanted(self) -> dict[str, Any]:
        require_bounded(self)
        flow_types = None if self.flow_types is None else [one.name for one in self.flow_types]
        return given_values({"customer_id": self.customer_ids, "flow_type": flow_types})

    def form(self) -> Hashable:
        return (None if self.statuses is None else frozenset(self.statuses), self.valid)

    def narrow(self, statement: Select[Any], at: Any, wanted: Mapping[str, Any]) -> Select[Any]:
        model = models.HostedConsent
        for name, values in wanted.items():
            statement = statement.where(getattr(model, name).in_(values))
        if self.statuses is not None:
            states = [model.has_status(one, at) for one in self.statuses]
            # An empty list matches nothing, as in every filter.
            statement = statement.where(or_(*states) if states else col(model.id).is_(None))
        if self.valid is not None:
            in_force = model.in_force(at)
            statement = statement.where(in_force if self.valid else ~in_force)
        return statement


@strawberry.type
class ConsentQueries:
    @strawberry.field
    async def hosted_consent(self, info: Info, id: strawberry.ID) -> HostedConsent | None:
        return await read_one(info, models.HostedConsent, id)  # type: ignore[no-any-return]

    @strawberry.field
    async def hosted_consents(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
        filter: HostedConsentFilter | None = None,
    ) -> Connection[HostedConsent]:
        request = page_request(first, after, last, before)
        return await connection(info, models.HostedConsent, request, filter)  # type: ignore[no-any-return]

    @strawberry.field(
        description="What the end customer's page shows; the token is the only credential it needs."
    )
    async def hosted_consent_by_token(self, info: Info, token: str) -> HostedConsent | None:
        found = await info.context.execute(actions.with_token(token))
        row: models.HostedConsent | None = found.scalar_one_or_none()
        if row is None or clock.now() >= row.expires_at:
            return None
        return HostedConsent.of(row, actions.bearer_of(row))

    @strawberry.field
    async def hosted_consent_evidence(
        self, info: Info, hosted_consent_id: strawberry.ID
    ) -> HostedConsentEvidence | None:
        viewer = info.context.viewer
        found = await info.context.execute(documents.of_consents(viewer, [hosted_consent_id]))
        return shown(found.scalar_one_or_none(), viewer)  # type: ignore[no-any-return]


@strawberry.input
class CreateHostedConsentInput:
    customer_id: strawberry.ID
    flow_type: ConsentFlowType
    expiry: date
    redirect_url: str
    description: str | None = None
    meter_numbers: list[str] | None = None
    consent_method: ConsentMethod | None = None
    consentee_email: str | None = None
    consentee_full_name: str | None = None
    consentee_job_title: str | None = None
    idempotency_key: str | None = None


@strawberry.type
class CreateHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateHostedConsentInput:
    hosted_consent_id: strawberry.ID
    description: str | None = strawberry.UNSET
    expiry: date | None = strawberry.field(default=strawberry.UNSET, description="While pending.")
    idempotency_key: str | None = None


@strawberry.type
class UpdateHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class ApproveHostedConsentInput:
    token: str
    consentee_full_name: str
    consentee_email: str
    consentee_job_title: str | None = None
    meter_numbers: list[str] | None = None
    idempotency_key: str | None = None


@strawberry.type
class ApproveHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class DeclineHostedConsentInput:
    token: str
    reason: str | None = None
    idempotency_key: str | None = None


@strawberry.type
class DeclineHostedConsentPayload:
    hosted_consent: HostedConsent | None = None
    user_errors: list[UserError]


@strawberry.input
class RevokeHostedConsentInput:
    hosted_consent_id: strawberry.ID
    reason: str | None = None
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
        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            changes = given(input, "description", "expiry")
            return {"hosted_consent": await actions.update(session, actor, input.hosted_consent_id, changes)}

        return await mutate(info, input, UpdateHostedConsentPayload, run)

    @strawberry.mutation(description="By the end customer's token, which alone decides.")
    async def approve_hosted_consent(
        self,
        info: Info,
        input: ApproveHostedConsentInput,
    ) -> ApproveHostedConsentPayload | None:
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

        return await mutate(info, input, ApproveHostedConsentPayload, run, by=_bearer(input.token))

    @strawberry.mutation
    async def decline_hosted_consent(
        self,
        info: Info,
        input: DeclineHostedConsentInput,
    ) -> DeclineHostedConsentPayload | None:
        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            return {"hosted_consent": await decisions.decline(session, actor, input.reason)}

        return await mutate(info, input, DeclineHostedConsentPayload, run, by=_bearer(input.token))

    @strawberry.mutation
    async def revoke_hosted_consent(
        self,
        info: Info,
        input: RevokeHostedConsentInput,
    ) -> RevokeHostedConsentPayload | None:
        async def run(session: Any, actor: Actor) -> dict[str, Any]:
            consent_id = input.hosted_consent_id
            return {"hosted_consent": await decisions.revoke(session, actor, consent_id, input.reason)}

        return await mutate(info, input, RevokeHostedConsentPayload, run)


def _bearer(token: str) -> Any:
    return lambda session: actions.actor_of_token(session, token)
