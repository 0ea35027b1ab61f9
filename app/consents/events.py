"""Events about hosted consents. They never carry the token, the link or the evidence."""

from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar, Self

from pydantic import Field

from app.consents.models import ConsentFlowType, ConsentStatus, HostedConsent
from app.events.catalogue import REDACTED, Data, EventData, Instant
from app.meters.models import Meter


class HostedConsentData(Data):
    """A hosted consent in events; `meterNumbers` are the numbers of the meters in `meterIds`, in the same order."""

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
        return cls.of_row(
            row,
            purpose=row.description,
            flow_code=ConsentFlowType[row.flow_type].value,
            status=status.value,
            meter_ids=[meter.id for meter in meters],
            meter_numbers=[meter.number for meter in meters],
        )

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


class HostedConsentDeclined(HostedConsentData, EventData):
    type: ClassVar = "hosted_consent.declined"
    place: ClassVar = 12
    words: ClassVar = "Consent declined"
    summary: ClassVar = "the end customer declined a consent request"
    description: ClassVar = (
        "The end customer declined a hosted consent; data is the consent and those meters of it that exist."
    )
    example: ClassVar = {
        **CONSENT_EXAMPLE,
        "status": "DECLINED",
        "consenteeEmailVerified": False,
        "pageVersion": None,
        "consentedAt": None,
    }
    personal: ClassVar = CONSENT_PERSONAL


class HostedConsentExpired(HostedConsentData, EventData):
    type: ClassVar = "hosted_consent.expired"
    place: ClassVar = 13
    words: ClassVar = "Consent expired"
    summary: ClassVar = "an approved consent ran out"
    description: ClassVar = (
        "An approved hosted consent ran out: its expiry day ended in the UK, and it was not revoked. A request that "
        "was never decided raises none. data is the consent and the meters it covered."
    )
    example: ClassVar = {**CONSENT_EXAMPLE, "status": "EXPIRED"}
    personal: ClassVar = CONSENT_PERSONAL
