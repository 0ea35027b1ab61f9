"""Events about hosted consents. They never carry the token, the link or the evidence."""

from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.consents.models import ConsentFlowType, ConsentStatus, HostedConsent
from app.events.catalogue import REDACTED, EventData, Instant
from app.meters.models import Meter


class HostedConsentData(BaseModel):
    """A hosted consent in events; `meterNumbers` are the numbers of the meters in `meterIds`, in the same order."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    id: str
    # `description` describes the event class, so the consent's own description has another attribute.
    purpose: str | None = Field(alias="description")
    flow_type: str
    flow_code: str
    status: str
    customer_id: str
    meter_ids: list[str]
    meter_numbers: list[str]
    expiry: date
    redirect_url: str
    consent_method: str
    consentee_full_name: str | None
    consentee_email: str | None
    consentee_email_verified: bool
    consentee_job_title: str | None
    page_version: str | None
    consented_at: Instant | None
    revoked_at: Instant | None
    revocation_reason: str | None
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, row: HostedConsent, status: ConsentStatus, meters: Sequence[Meter]) -> Self:
        """The consent with the meters that it covers at the time of the event."""
        values: dict[str, Any] = {
            "id": row.id,
            "purpose": row.description,
            "flow_type": row.flow_type,
            "flow_code": ConsentFlowType[row.flow_type].value,
            "status": status.value,
            "customer_id": row.customer_id,
            "meter_ids": [meter.id for meter in meters],
            "meter_numbers": [meter.number for meter in meters],
            "expiry": row.expiry,
            "redirect_url": row.redirect_url,
            "consent_method": row.consent_method,
            "consentee_full_name": row.consentee_full_name,
            "consentee_email": row.consentee_email,
            "consentee_email_verified": row.consentee_email_verified,
            "consentee_job_title": row.consentee_job_title,
            "page_version": row.page_version,
            "consented_at": row.consented_at,
            "revoked_at": row.revoked_at,
            "revocation_reason": row.revocation_reason,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }
        return cls(**values)

    def subject_id(self) -> str:
        return self.id

    def about_customer(self) -> str:
        return self.customer_id

    def about_meters(self) -> Sequence[str]:
        return self.meter_ids


CONSENT_EXAMPLE: dict[str, Any] = {
    "id": "hc_01jdf3w8q2k7c9v5m1x0a4b6d8",
    "description": "Half-hourly data for your new tariff",
    "flowType": "GB_RESIDENTIAL_SPECIFIC",
    "flowCode": "gb.residential.specific",
    "status": "APPROVED",
    "customerId": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
    "meterIds": ["mtr_01jdf3w8q2k7c9v5m1x0a4b6d8"],
    "meterNumbers": ["1312345678907"],
    "expiry": "2027-11-24",
    "redirectUrl": "https://example.com/welcome",
    "consentMethod": "DIGITAL_CONSENT",
    "consenteeFullName": "Ada Lovelace",
    "consenteeEmail": "ada@example.com",
    "consenteeEmailVerified": True,
    "consenteeJobTitle": "Occupier",
    "pageVersion": "1-5d0c6a3f9b27",
    "consentedAt": "2026-11-24T22:29:55.123Z",
    "revokedAt": None,
    "revocationReason": None,
    "createdAt": "2026-11-23T09:12:04.870Z",
    "updatedAt": "2026-11-24T22:29:55.123Z",
}
# Values that name a person or a home, or were written about one.
CONSENT_PERSONAL: dict[str, Any] = {
    "description": None,
    "meterNumbers": [],
    "redirectUrl": REDACTED,
    "consenteeFullName": None,
    "consenteeEmail": None,
    "consenteeJobTitle": None,
    "revocationReason": None,
}


class HostedConsentApproved(HostedConsentData, EventData):
    type: ClassVar = "hosted_consent.approved"
    place: ClassVar = 6
    words: ClassVar = "Consent approved"
    summary: ClassVar = "a consent was given"
    description: ClassVar = (
        "The end customer approved a hosted consent; data is the consent and the meters it covers."
    )
    example: ClassVar = CONSENT_EXAMPLE
    personal: ClassVar = CONSENT_PERSONAL


class HostedConsentRevoked(HostedConsentData, EventData):
    type: ClassVar = "hosted_consent.revoked"
    place: ClassVar = 7
    words: ClassVar = "Consent revoked"
    summary: ClassVar = "a consent was revoked"
    description: ClassVar = (
        "An approved hosted consent was revoked; data is the consent and the meters it covered."
    )
    example: ClassVar = {
        **CONSENT_EXAMPLE,
        "status": "REVOKED",
        "revokedAt": "2027-02-01T08:00:00.000Z",
        "revocationReason": "The customer asked for it by mail.",
        "updatedAt": "2027-02-01T08:00:00.000Z",
    }
    personal: ClassVar = CONSENT_PERSONAL
