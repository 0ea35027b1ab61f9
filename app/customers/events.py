"""Events about customers."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from app.customers.models import Customer
from app.events.catalogue import REDACTED, EventData, Instant


class CustomerData(BaseModel):
    """A customer in events."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    id: str
    name: str
    email: str
    address: str | None
    logo_url: str | None
    metadata: dict[str, str]
    created_at: Instant
    updated_at: Instant

    @classmethod
    def values_of(cls, row: Customer) -> dict[str, Any]:
        return {
            "id": row.id,
            "name": row.name,
            "email": row.email,
            "address": row.address,
            "logo_url": row.logo_url,
            "metadata": row.labels,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }


CUSTOMER_EXAMPLE: dict[str, Any] = {
    "id": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "address": "12 St James's Square, London SW1Y 4JH",
    "logoUrl": None,
    "metadata": {"segment": "residential"},
    "createdAt": "2026-11-24T22:29:55.123Z",
    "updatedAt": "2026-11-24T22:29:55.123Z",
}
CUSTOMER_PERSONAL: dict[str, Any] = {
    "name": REDACTED,
    "email": REDACTED,
    "address": None,
    "logoUrl": None,
    "metadata": {},
}


class CustomerCreated(CustomerData, EventData):
    type: ClassVar = "customer.created"
    place: ClassVar = 4
    words: ClassVar = "Customer created"
    summary: ClassVar = "a customer was created"
    description: ClassVar = "A customer was created; data is the customer."
    example: ClassVar = CUSTOMER_EXAMPLE
    personal: ClassVar = CUSTOMER_PERSONAL
    notes: ClassVar = {"metadata": {}}

    @classmethod
    def of(cls, row: Customer) -> "CustomerCreated":
        return cls(**CustomerData.values_of(row))

    def subject_id(self) -> str:
        return self.id

    def about_customer(self) -> str:
        return self.id
