"""Actions on meters: load the row, apply the rule, append the event. Each takes a session and never commits."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete as delete_from
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, visible
from app.consents import coverage
from app.consents.models import ConsentMeter, HostedConsent
from app.core import clock, validation
from app.core.errors import ErrorCode, Refusal, not_found
from app.customers import actions as customers
from app.customers.models import Customer
from app.events import log
from app.meters import numbers
from app.meters.enums import DataSource, MeterType
from app.meters.events import MeterCreated
from app.meters.models import Meter

# The fields that an update may change, each with its rule; None clears a field where its rule allows it.
_CHANGES: dict[str, Any] = {
    "description": lambda value: validation.optional_text(value, "description"),
    "address": lambda value: validation.optional_text(value, "address"),
    "data_source": lambda value: validation.not_cleared(value, "dataSource").name,
    "labels": lambda value: value or {},
}


async def create(
    session: AsyncSession,
    actor: Actor,
    *,
    customer_id: str,
    number: str,
    type: MeterType | None = None,
    description: str | None = None,
    address: str | None = None,
    data_source: DataSource | None = None,
    labels: dict[str, str] | None = None,
) -> Meter:
    """Creates a meter of one of the actor's customers and links it to the consents that cover it.

    Raises NOT_FOUND on `customerId`, INVALID_METER_NUMBER or TAKEN on `number`, TOO_LONG.
    """
    # The lock makes sure that a consent created at the same time is linked, by this action or by the consent's.
    customer = await customers.load(session, actor, customer_id, "customerId", lock=True)
    valid = validation.validate_all(
        number=lambda: _parsed(number, type, "number"),
        description=lambda: validation.optional_text(description, "description"),
        address=lambda: validation.optional_text(address, "address"),
    )
    meter = _meter(customer, valid["number"])
    meter.description, meter.address = valid["description"], valid["address"]
    meter.data_source = (data_source or DataSource.API).name
    meter.labels = labels or {}
    if await _of_numbers(session, customer.id, [meter.number]):
        raise Refusal(ErrorCode.TAKEN, "This customer already has a meter with this number.", "number")
    await _add(session, customer, [meter])
    return meter


async def find_or_create(
    session: AsyncSession, account_id: str, customer: Customer, meter_numbers: Sequence[str]
) -> list[Meter]:
    """The customer's meters with these numbers, in their order. Missing meters are created, each with its event.

    The caller holds the customer's lock. Raises INVALID_METER_NUMBER on `meterNumbers` and the index.
    """
    parsed = [_parsed(one, None, "meterNumbers", str(index)) for index, one in enumerate(meter_numbers)]
    wanted = {one.core: one for one in parsed}
    known = await _of_numbers(session, customer.id, list(wanted))
    missing = {core: _meter(customer, one) for core, one in wanted.items() if core not in known}
    await _add(session, customer, list(missing.values()))
    return [(known | missing)[core] for core in wanted]


async def update(session: AsyncSession, actor: Actor, meter_id: str, changes: dict[str, Any]) -> Meter:
    """Applies the given `changes`, whose names are in `_CHANGES`."""
    meter = await load(session, actor, meter_id, "meterId", lock=True)
    for attribute, value in validation.validate_changes(_CHANGES, changes).items():
        setattr(meter, attribute, value)
    meter.updated_at = clock.now()
    return meter


async def delete(session: AsyncSession, actor: Actor, meter_id: str) -> str:
    """Deletes a meter with its readings; its events stay."""
    await session.delete(await load(session, actor, meter_id, "meterId", lock=True))
    return meter_id


async def enable(session: AsyncSession, actor: Actor, meter_id: str) -> Meter:
    """Enables a meter; an enabled meter stays as it is."""
    return await _switch(session, actor, meter_id, is_disabled=False)


async def disable(session: AsyncSession, actor: Actor, meter_id: str) -> Meter:
    """Disables a meter; a disabled meter stays as it is."""
    return await _switch(session, actor, meter_id, is_disabled=True)


async def set_consent(session: AsyncSession, actor: Actor, meter_id: str, consent_id: str | None) -> Meter:
    """Covers a meter by this consent alone, or by none.

    Raises NOT_FOUND, or CONFLICT on `hostedConsentId` for a consent of another customer or about other meters.
    """
    meter = await load(session, actor, meter_id, "meterId", lock=True)
    if consent_id is not None:
        await _require_covering(session, actor, meter, consent_id)
    await session.execute(delete_from(ConsentMeter).where(col(ConsentMeter.meter_id) == meter.id))
    if consent_id is not None:
        session.add(ConsentMeter(meter_id=meter.id, hosted_consent_id=consent_id))
    meter.updated_at = clock.now()
    return meter


async def load(session: AsyncSession, actor: Actor, meter_id: str, *field: str, lock: bool = False) -> Meter:
    """Loads a meter; `lock` holds off concurrent changes. Raises NOT_FOUND."""
    statement = visible(select(Meter).where(col(Meter.id) == meter_id), actor)
    if lock:
        statement = statement.with_for_update()
    meter: Meter | None = (await session.execute(statement)).scalar_one_or_none()
    if meter is None:
        raise not_found("meter", *field)
    return meter


async def _switch(session: AsyncSession, actor: Actor, meter_id: str, *, is_disabled: bool) -> Meter:
    meter = await load(session, actor, meter_id, "meterId", lock=True)
    if meter.is_disabled is not is_disabled:
        meter.is_disabled = is_disabled
        meter.updated_at = clock.now()
    return meter


async def _require_covering(session: AsyncSession, actor: Actor, meter: Meter, consent_id: str) -> None:
    statement = visible(select(HostedConsent).where(col(HostedConsent.id) == consent_id), actor)
    consent: HostedConsent | None = (await session.execute(statement)).scalar_one_or_none()
    if consent is None:
        raise not_found("hosted consent", "hostedConsentId")
    if consent.customer_id != meter.customer_id:
        raise Refusal(
            ErrorCode.CONFLICT,
            "This consent is another customer's: use one of the meter's own customer.",
            "hostedConsentId",
        )
    if not consent.covers(meter.number):
        raise Refusal(
            ErrorCode.CONFLICT,
            "This consent does not name the meter's number: ask for one that does.",
            "hostedConsentId",
        )


async def _of_numbers(session: AsyncSession, customer_id: str, wanted: Sequence[str]) -> dict[str, Meter]:
    """The customer's meters with these numbers, by number."""
    statement = select(Meter).where(col(Meter.customer_id) == customer_id, col(Meter.number).in_(wanted))
    return {meter.number: meter for meter in (await session.exec(statement)).all()}


async def _add(session: AsyncSession, customer: Customer, meters: Sequence[Meter]) -> None:
    """Inserts new meters of one customer and their links to its consents, and appends their events."""
    if not meters:
        return
    session.add_all(meters)
    await session.flush()
    await _link(session, customer.id, meters)
    at = clock.now()
    effective = await coverage.effective_consents(session, [meter.id for meter in meters], at)
    for meter in meters:
        event = MeterCreated.of(meter, customer, effective.get(meter.id), at)
        log.append(session, meter.account_id, event)


async def _link(session: AsyncSession, customer_id: str, meters: Sequence[Meter]) -> None:
    consents = await session.exec(select(HostedConsent).where(col(HostedConsent.customer_id) == customer_id))
    session.add_all(
        ConsentMeter(meter_id=meter.id, hosted_consent_id=consent.id)
        for consent in consents.all()
        for meter in meters
        if consent.covers(meter.number)
    )
    await session.flush()


def _meter(customer: Customer, number: numbers.ParsedNumber) -> Meter:
    return Meter(
        account_id=customer.account_id,
        customer_id=customer.id,
        number=number.core,
        type=number.type.name,
        has_invalid_number=number.invalid,
    )


def _parsed(number: str, type: MeterType | None, *field: str) -> numbers.ParsedNumber:
    try:
        return numbers.parse(number, type)
    except numbers.InvalidMeterNumber as error:
        raise Refusal(ErrorCode.INVALID_METER_NUMBER, str(error), *field) from None
