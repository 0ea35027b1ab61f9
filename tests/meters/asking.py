"""Helpers that create customers, meters and consents for tests of meters."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app.consents import coverage
from app.consents.models import ConsentFlowType, ConsentStatus, HostedConsent
from app.core import clock
from app.core.crypto import digest, random_token
from tests.accounts.state import mutation
from tests.support import TestAccount, World

NUMBERS = ["9999999999995", "9999999999996", "9999999999997", "9999999999998", "9999999999999"]
STATE = "missingConsent expiredConsent isDisabledByUser hasInvalidMeterNumber"
METER = (
    f"id number type description address metadata dataSource status validityState {{ {STATE} }} "
    "customer { id name } hostedConsent { id } createdAt updatedAt"
)
CREATE = mutation("createMeter", f"meter {{ {METER} }}")
DAY = timedelta(days=1)


async def run(world: World, account: TestAccount, document: str, **values: Any) -> dict[str, Any]:
    """The payload of a mutation."""
    data = await world.data(document, {"input": values}, key=account.key)
    [payload] = data.values()
    return payload  # type: ignore[no-any-return]


async def make_customer(
    world: World, account: TestAccount, email: str = "ada@example.com", **values: Any
) -> str:
    given = {"name": "Ada", "email": email, **values}
    payload = await run(world, account, mutation("createCustomer", "customer { id }"), **given)
    customer_id: str = payload["customer"]["id"]
    return customer_id


async def make_meter(
    world: World, account: TestAccount, customer_id: str, number: str = NUMBERS[0], **values: Any
) -> dict[str, Any]:
    payload = await run(world, account, CREATE, customerId=customer_id, number=number, **values)
    assert payload["userErrors"] == []
    meter: dict[str, Any] = payload["meter"]
    return meter


async def meter_now(world: World, account: TestAccount, meter_id: str) -> dict[str, Any] | None:
    query = f"query ($id: ID!) {{ meter(id: $id) {{ {METER} }} }}"
    found: dict[str, Any] | None = (await world.data(query, {"id": meter_id}, key=account.key))["meter"]
    return found


async def make_consent(
    world: World,
    account: TestAccount,
    customer_id: str,
    decision: ConsentStatus = ConsentStatus.APPROVED,
    *,
    numbers: Sequence[str] | None = None,
    until: datetime | None = None,
) -> str:
    """Creates a decided consent, linked to the meters it covers; without numbers it is a blanket one."""
    flow = ConsentFlowType.GB_RESIDENTIAL_SPECIFIC if numbers else ConsentFlowType.GB_COMMERCIAL_BLANKET
    at = clock.now()
    until = until or at + 30 * DAY
    token = random_token("vw_consent_")
    row = HostedConsent(
        account_id=account.id,
        customer_id=customer_id,
        flow_type=flow.name,
        decision=decision.value,
        expiry=clock.uk_date(until),
        expires_at=until,
        redirect_url="https://example.com/",
        meter_numbers=list(numbers or []),
        token_hash=digest(token),
        token_encrypted=world.services.keyring.encrypt(token),
        decided_at=None if decision is ConsentStatus.PENDING else at,
    )
    async with world.database.transaction() as session:
        session.add(row)
        await session.flush()
        await coverage.link_meters(session, row)
    return row.id
