"""Hosted consents and their evidence in GraphQL."""

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from sqlalchemy import false, or_
from sqlmodel import col

from app.auth.actor import Scope
from app.consents import actions, documents, models
from app.consents.events import (
    HostedConsentApproved,
    HostedConsentDeclined,
    HostedConsentExpired,
    HostedConsentRevoked,
)
from app.consents.evidence import evidence_url
from app.consents.models import ConsentFlowType, ConsentMeter, ConsentMethod, ConsentStatus, Decision
from app.core import clock
from app.graphql.compiled.declare import computed, to_many, to_one
from app.graphql.compiled.sources import ReadContext
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.filters import Filter, chosen, compared, names
from app.graphql.nodes import Node, row_type, shown
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.meters.models import Meter as MeterRow

if TYPE_CHECKING:
    from app.customers.graphql import Customer
    from app.meters.graphql import Meter

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]
LazyMeter = Annotated["Meter", strawberry.lazy("app.meters.graphql")]

for _kind in (ConsentFlowType, ConsentStatus, ConsentMethod):
    strawberry.enum(_kind)


def _link(
    read: ReadContext, identifier: str, decision: str, expires_at: datetime, token_encrypted: str
) -> str | None:
    status = Decision(decision, expires_at).status(read.at)
    may = read.viewer.may(Scope.WRITE) or read.viewer.consent_id == identifier
    if status is not ConsentStatus.PENDING or not may:
        return None
    return f"{read.services.public_url}/consents/{read.services.keyring.decrypt(token_encrypted)}"


_DECISION = ("decision", "expires_at")


@row_type(models.HostedConsent, "hc")
@strawberry.type
class HostedConsent(Node):
    """An end customer's consent to have its meters read."""

    id: strawberry.ID
    description: str | None
    """The purpose, which the page shows."""
    flow_type: ConsentFlowType
    """The meters that it covers."""
    flow_code: str = computed(lambda _, name: ConsentFlowType[name].value, "flow_type")
    """The same as a code, such as gb.residential.specific."""
    status: ConsentStatus = computed(lambda read, *decision: Decision(*decision).status(read.at), *_DECISION)
    """How it stands now."""
    valid: bool = computed(lambda read, *decision: Decision(*decision).is_valid(read.at), *_DECISION)
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
    consented_at: datetime | None = computed(
        lambda _, *decided: models.consented_at(*decided), "decision", "decided_at"
    )
    """When it was given; null while it was not."""
    revoked_at: datetime | None
    """When it was revoked; null while it is not."""
    revocation_reason: str | None
    """The reason that was given for revoking it."""
    created_at: datetime
    updated_at: datetime
    link: str | None = computed(_link, "id", *_DECISION, "token_encrypted")
    """The page where it is decided: only while pending, to WRITE keys and the end customer's own token."""
    customer: LazyCustomer = to_one("customer_id")
    """The customer who is asked."""
    meters: Connection[LazyMeter] = to_many(
        ConsentMeter.hosted_consent_id,
        through=ConsentMeter,
        on=col(ConsentMeter.meter_id) == col(MeterRow.id),
        key=col(ConsentMeter.meter_id),
    )
    """The meters that it covers, in the order of their ids."""


@row_type(models.Evidence, "evd")
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
    hosted_consent: HostedConsent = to_one("hosted_consent_id")
    """The consent that it proves."""
    url: str = computed(lambda read, consent_id: evidence_url(read.services, consent_id), "hosted_consent_id")
    """The address to download it from, with a key or the consent's token."""


@event_type(HostedConsentApproved)
@strawberry.type
class HostedConsentApprovedEvent(Event):
    """A consent was given."""

    hosted_consent: HostedConsent | None = to_one("subject_id")
    """The consent as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The consent's customer as of now; null once deleted."""


@event_type(HostedConsentRevoked)
@strawberry.type
class HostedConsentRevokedEvent(Event):
    """A consent was revoked."""

    hosted_consent: HostedConsent | None = to_one("subject_id")
    """The consent as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The consent's customer as of now; null once deleted."""


@event_type(HostedConsentDeclined)
@strawberry.type
class HostedConsentDeclinedEvent(Event):
    """A consent was declined."""

    hosted_consent: HostedConsent | None = to_one("subject_id")
    """The consent as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The consent's customer as of now; null once deleted."""


@event_type(HostedConsentExpired)
@strawberry.type
class HostedConsentExpiredEvent(Event):
    """An approved consent ran out."""

    hosted_consent: HostedConsent | None = to_one("subject_id")
    """The consent as of now; null once deleted."""
    customer: LazyCustomer | None = to_one("customer_id")
    """The consent's customer as of now; null once deleted."""


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
    hosted_consent: HostedConsent | None = by_id(models.HostedConsent)
    """The consent with this id; null if there is none."""
    hosted_consents: Connection[HostedConsent] = pages(models.HostedConsent, HostedConsentFilter)
    """The consents that the viewer may see, in the order of their ids."""

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
        found = await info.context.execute(actions.select_by_token(token))
        row: models.HostedConsent | None = found.scalar_one_or_none()
        if row is None or clock.now() >= row.expires_at:
            return None
        return HostedConsent.of(row, actions.token_holder(row))

    @strawberry.field
    async def hosted_consent_evidence(
        self, info: Info, hosted_consent_id: strawberry.ID
    ) -> HostedConsentEvidence | None:
        """The document that proves a consent; null while there is none."""
        viewer = info.context.viewer
        found = await info.context.execute(documents.select_evidence(viewer, [hosted_consent_id]))
        return shown(found.scalar_one_or_none(), viewer)  # type: ignore[no-any-return]
