"""Events about customers."""

from typing import Any, ClassVar, Self

from app.customers.models import Customer
from app.events.catalogue import REDACTED, Data, EventData, Instant


class CustomerData(Data):
    """A customer in events."""

    id: str
    name: str
    email: str
    address: str | None
    logo_url: str | None
    metadata: dict[str, str]
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, row: Customer) -> Self:
        return cls.of_row(row, metadata=row.labels)


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

    def subject_id(self) -> str:
        return self.id

    def about_customer(self) -> str:
        return self.id
