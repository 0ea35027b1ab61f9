"""Events about meters."""

from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from app.consents import coverage
from app.consents.models import Decision, HostedConsent
from app.customers.events import CUSTOMER_EXAMPLE, CUSTOMER_PERSONAL, CustomerData
from app.customers.models import Customer
from app.events.catalogue import REDACTED, Data, EventData, Instant
from app.meters.enums import DataSource, MeterStatus, MeterType
from app.meters.models import Meter, MeterFlags


class ValidityState(Data):
    """The reasons why a meter may be inactive."""

    missing_consent: bool
    expired_consent: bool
    is_disabled_by_user: bool
    has_invalid_meter_number: bool

    @classmethod
    def of(
        cls, meter: Meter | MeterFlags, consent: HostedConsent | Decision | None, at: datetime
    ) -> "ValidityState":
        """The state of a meter with this effective consent."""
        return cls(
            missing_consent=coverage.is_missing(consent, at),
            expired_consent=coverage.is_expired(consent, at),
            is_disabled_by_user=meter.is_disabled,
            has_invalid_meter_number=meter.has_invalid_number,
        )


class MeterCreated(EventData):
    type: ClassVar = "meter.created"
    place: ClassVar = 2
    words: ClassVar = "Meter created"
    summary: ClassVar = "a meter was created, by itself or by a consent"
    description: ClassVar = (
        "A meter was created, by itself or by a consent; data is the meter with its customer."
    )
    example: ClassVar[dict[str, Any]] = {
        "id": "mtr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "number": "9999999999995",
        "type": "ELECTRICITY",
        "description": "Ground floor",
        "address": "12 St James's Square, London SW1Y 4JH",
        "metadata": {"site": "london-1"},
        "dataSource": "API",
        "status": "PENDING",
        "validityState": {
            "missingConsent": True,
            "expiredConsent": False,
            "isDisabledByUser": False,
            "hasInvalidMeterNumber": False,
        },
        "createdAt": "2026-11-24T22:29:55.123Z",
        "updatedAt": "2026-11-24T22:29:55.123Z",
        "customer": CUSTOMER_EXAMPLE,
    }
    personal: ClassVar[dict[str, Any]] = {
        "number": REDACTED,
        "description": None,
        "address": None,
        "metadata": {},
        **{f"customer.{name}": replacement for name, replacement in CUSTOMER_PERSONAL.items()},
    }
    notes: ClassVar[dict[str, Any]] = {"description": None, "metadata": {}, "customer.metadata": {}}

    id: str
    number: str
    # `type` and `description` belong to the event class, so the meter's own have other attributes.
    kind: MeterType = Field(alias="type")
    note: str | None = Field(alias="description")
    address: str | None
    metadata: dict[str, str]
    data_source: DataSource
    status: MeterStatus
    validity_state: ValidityState
    created_at: Instant
    updated_at: Instant
    customer: CustomerData

    @classmethod
    def of(
        cls, meter: Meter, customer: Customer, consent: HostedConsent | None, at: datetime
    ) -> "MeterCreated":
        return cls.of_row(
            meter,
            kind=MeterType[meter.type],
            note=meter.description,
            metadata=meter.labels,
            data_source=DataSource[meter.data_source],
            status=coverage.status(meter, consent, at),
            validity_state=ValidityState.of(meter, consent, at),
            customer=CustomerData.of(customer),
        )

    def subject_id(self) -> str:
        return self.id

    def about_customer(self) -> str:
        return self.customer.id

    def about_meters(self) -> tuple[str]:
        return (self.id,)
