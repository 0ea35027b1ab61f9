"""Hosted consents and their evidence in GraphQL."""

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import false, or_, select
from sqlmodel import col

from app.auth.actor import Actor, Scope, visible
from app.consents import actions, documents, models
from app.consents.evidence import evidence_url
from app.consents.models import ConsentFlowType, ConsentMeter, ConsentMethod, ConsentStatus, Decision
from app.core import clock
from app.customers.models import Customer as CustomerRow
from app.events.catalogue import EventType
from app.events.models import EventRecord
from app.graphql.compiled.declare import Many, ReadContext, compiled, computed, one
from app.graphql.compiled.reads import connection, read_one
from app.graphql.context import Context, Info, Services
from app.graphql.events import Event, event_type
from app.graphql.filters import Filter, chosen, compared, names
from app.graphql.nodes import Node, find, find_owner, shown, shows
from app.graphql.pagination import Connection, nested_pages, page_request
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


def _compiled_link(
    asked: ReadContext, identifier: str, decision: str, expires_at: datetime, token: str
) -> Any:
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
    """An end customer's consent to have its meters read."""

    id: strawberry.ID
    description: str | None
    """The purpose, which the page shows."""
    flow_type: ConsentFlowType
    """The meters that it covers."""
    flow_code: str
    """The same as a code, such as gb.residential.specific."""
    status: ConsentStatus
    """How it stands now."""
    valid: bool
    """Approved, not revoked, not past the end of its expiry day in the UK."""
    meter_numbers: list[str]
    """The numbers that it names, in their stored form."""
    expiry: date
    """Its last day, in the UK."""
    redirect_url: str
    """The link that the page leads back to, with hosted_consent_id and status appended."""
    consent_method: ConsentMethod
    """The way in which it is given."""
    consentee_full_name: str | None
    """The person who decides, by full name."""
    consentee_email: str | None
    """The mail address of the person who decides."""
    consentee_email_verified: bool
    """Whether a mailed code proved that address before the approval."""
    consentee_job_title: str | None
    """The job title of the person who decides."""
    page_version: str | None
    """The version of the page that was shown, for audits."""
    consented_at: datetime | None
    """When it was given; null while it was not."""
    revoked_at: datetime | None
    """When it was revoked; null while it is not."""
    revocation_reason: str | None
    """The reason that was given for revoking it."""
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

    @strawberry.field
    def link(self, info: Info) -> str | None:
        """The page where it is decided: only while pending, to WRITE keys and the end customer's own token."""
        return _link(info.context.services, self.viewer, self.row.id, self.status, self.row.token_encrypted)

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer:
        """The customer who is asked."""
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
        """The meters that it covers, in the order of their ids."""
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
    """The document that proves a consent: made at a digital approval, or uploaded."""

    id: strawberry.ID
    file_name: str
    """The name under which it is downloaded."""
    content_type: str
    """Its media type: HTML of a digital approval, else PDF, PNG or JPEG."""
    size: int
    """Its size in bytes."""
    sha256: str
    """The SHA-256 of its bytes, in hexadecimal."""
    page_version: str | None
    """The version of the page that was shown; null for an upload."""
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
        """The consent that it proves."""
        row = await find(info.context, self.viewer, models.HostedConsent, self.row.hosted_consent_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]

    @strawberry.field
    def url(self, info: Info) -> str:
        """The address to download it from, with a key or the consent's token."""
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
    """A consent was given."""

    @strawberry.field
    async def hosted_consent(self, info: Info) -> HostedConsent | None:
        """The consent as of now; null once deleted."""
        return await _consent_of(self, info.context)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        """The consent's customer as of now; null once deleted."""
        return await _customer_of(self, info.context)  # type: ignore[no-any-return]


@event_type(EventType.HOSTED_CONSENT_REVOKED)
@compiled(EventRecord, hosted_consent=one("subject_id"), customer=one("customer_id"))
@strawberry.type
class HostedConsentRevokedEvent(Event):
    """A consent was revoked."""

    @strawberry.field
    async def hosted_consent(self, info: Info) -> HostedConsent | None:
        """The consent as of now; null once deleted."""
        return await _consent_of(self, info.context)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        """The consent's customer as of now; null once deleted."""
        return await _customer_of(self, info.context)  # type: ignore[no-any-return]


@strawberry.input
class HostedConsentFilter(Filter):
    """OR within a list, AND across; [] matches nothing, null everything."""

    customer_ids: list[strawberry.ID] | None = compared(col(models.HostedConsent.customer_id).in_)
    """Ids of customers, one of whom must have been asked: 1,000 at most."""
    statuses: list[ConsentStatus] | None = chosen(
        lambda given, at: or_(false(), *(models.HostedConsent.has_status(one, at) for one in given))
    )
    """Statuses, one of which the consent must have now."""
    flow_types: list[ConsentFlowType] | None = compared(col(models.HostedConsent.flow_type).in_, names)
    """Flow types, one of which the consent must have."""
    valid: bool | None = chosen(
        lambda given, at: models.HostedConsent.in_force(at) if given else ~models.HostedConsent.in_force(at)
    )
    """Whether it must be valid now."""


@strawberry.type
class ConsentQueries:
    @strawberry.field
    async def hosted_consent(self, info: Info, id: strawberry.ID) -> HostedConsent | None:
        """The consent with this id; null if there is none."""
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
        """The consents that the viewer may see, in the order of their ids."""
        request = page_request(first, after, last, before)
        return await connection(info, models.HostedConsent, request, filter)  # type: ignore[no-any-return]

    @strawberry.field
    async def hosted_consent_by_token(
        self,
        info: Info,
        token: Annotated[
            str, strawberry.argument(description="The token of the consent's link, vw_consent_….")
        ],
    ) -> HostedConsent | None:
        """The consent that the end customer's page shows; the token is the only credential it needs. Null
        once expired."""
        found = await info.context.execute(actions.with_token(token))
        row: models.HostedConsent | None = found.scalar_one_or_none()
        if row is None or clock.now() >= row.expires_at:
            return None
        return HostedConsent.of(row, actions.bearer_of(row))

    @strawberry.field
    async def hosted_consent_evidence(
        self, info: Info, hosted_consent_id: strawberry.ID
    ) -> HostedConsentEvidence | None:
        """The document that proves a consent; null while there is none."""
        viewer = info.context.viewer
        found = await info.context.execute(documents.of_consents(viewer, [hosted_consent_id]))
        return shown(found.scalar_one_or_none(), viewer)  # type: ignore[no-any-return]
