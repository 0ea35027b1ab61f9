"""Actions on meters: load the row, apply the rule, append the event. Each is a script, and none commits."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, exists, literal, select
from sqlalchemy import delete as delete_from
from sqlmodel import col

from app.auth.actor import Actor, Scoped
from app.consents import coverage
from app.consents.models import ConsentMeter, HostedConsent
from app.core import clock, validation
from app.core.errors import ErrorCode, Refusal, not_found
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.raw_statements import Rows, Script, pad_to_power_of_two
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.events import log
from app.feeds import backfill_plans
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


_METERS: Final = Table(Meter)
_CONSENTS: Final = Table(HostedConsent)
_LINKS: Final = Table(ConsentMeter)
# Locked for the transaction, which holds off concurrent changes.
_LOCK: Final = Scoped(
    select(*_METERS.columns).where(col(Meter.id) == bindparam("wanted_id")).with_for_update()
)
_OF_NUMBERS: Final = select(*_METERS.columns).where(
    col(Meter.customer_id) == bindparam("customer_id"),
    col(Meter.number).in_(bindparam("numbers", expanding=True)),
)
_CONSENT: Final = Scoped(select(*_CONSENTS.columns).where(col(HostedConsent.id) == bindparam("wanted_id")))
_COVERING = ("id", "flow_type", "meter_numbers")
_CONSENTS_OF: Final = select(*(getattr(HostedConsent, name) for name in _COVERING)).where(
    col(HostedConsent.customer_id) == bindparam("customer_id")
)
# One statement tells both: whether the number is taken, and the customer's consents.
_LOOK: Final = select(
    exists()
    .where(col(Meter.customer_id) == bindparam("customer_id"), col(Meter.number) == bindparam("number"))
    .label("is_taken"),
    *_CONSENTS_OF.selected_columns,
).select_from(
    select(literal(1).label("one"))
    .subquery()
    .outerjoin(HostedConsent, col(HostedConsent.customer_id) == bindparam("customer_id"))
)
_UPDATE: Final = _METERS.updating(*_CHANGES, "updated_at")
_SWITCH: Final = _METERS.updating("is_disabled", "enabled_at", "updated_at")
_TOUCH: Final = _METERS.updating("updated_at")
_DELETE: Final = delete_from(_METERS.table).where(col(Meter.id) == bindparam("wanted_id"))
_UNLINK: Final = delete_from(_LINKS.table).where(col(ConsentMeter.meter_id) == bindparam("wanted_id"))


def create(
    transaction: InTransaction,
    actor: Actor,
    *,
    customer_id: str,
    number: str,
    type: MeterType | None = None,
    description: str | None = None,
    address: str | None = None,
    data_source: DataSource | None = None,
    labels: dict[str, str] | None = None,
) -> Script[Meter]:
    """Creates a meter of one of the actor's customers and links it to the consents that cover it.

    Raises NOT_FOUND on `customerId`, INVALID_METER_NUMBER or TAKEN on `number`, TOO_LONG.
    """
    # The lock makes sure that a consent created at the same time is linked, by this action or by the consent's.
    customer = yield from customers.find(actor, customer_id, "customerId", lock=True)
    valid = validation.validate_all(
        number=lambda: _parsed(number, type, "number"),
        description=lambda: validation.optional_text(description, "description"),
        address=lambda: validation.optional_text(address, "address"),
    )
    meter = _meter(
        customer,
        valid["number"],
        description=valid["description"],
        address=valid["address"],
        data_source=(data_source or DataSource.API).name,
        labels=labels or {},
    )
    found = yield _LOOK, {"customer_id": customer.id, "number": meter.number}
    if found[0][0]:
        raise Refusal(ErrorCode.TAKEN, "This customer already has a meter with this number.", "number")
    consents = [consent for _, *consent in found if consent[0] is not None]
    yield from _add(transaction, customer, [meter], consents)
    return meter


def find_or_create(
    transaction: InTransaction, customer: Customer, meter_numbers: Sequence[str]
) -> Script[list[Meter]]:
    """The customer's meters with these numbers, in their order. Missing meters are created, each with its event.

    The caller holds the customer's lock. Raises INVALID_METER_NUMBER on `meterNumbers` and the index.
    """
    parsed = [_parsed(one, None, "meterNumbers", str(index)) for index, one in enumerate(meter_numbers)]
    wanted = {one.core: one for one in parsed}
    known = yield from _of_numbers(customer.id, list(wanted))
    missing = {core: _meter(customer, one) for core, one in wanted.items() if core not in known}
    if missing:
        consents = yield _CONSENTS_OF, {"customer_id": customer.id}
        yield from _add(transaction, customer, list(missing.values()), consents)
    return [(known | missing)[core] for core in wanted]


def update(actor: Actor, meter_id: str, changes: dict[str, Any]) -> Script[Meter]:
    """Applies the given `changes`, whose names are in `_CHANGES`."""
    meter = yield from _lock(actor, meter_id)
    for attribute, value in validation.validate_changes(_CHANGES, changes).items():
        setattr(meter, attribute, value)
    meter.updated_at = clock.now()
    yield from _UPDATE(meter)
    return meter


def delete(actor: Actor, meter_id: str) -> Script[str]:
    """Deletes a meter with its readings; its events stay."""
    yield from _lock(actor, meter_id)
    yield _DELETE, {"wanted_id": meter_id}
    return meter_id


def enable(actor: Actor, meter_id: str) -> Script[Meter]:
    """Enables a meter; an enabled meter stays as it is."""
    return (yield from _switch(actor, meter_id, is_disabled=False))


def disable(actor: Actor, meter_id: str) -> Script[Meter]:
    """Disables a meter; a disabled meter stays as it is."""
    return (yield from _switch(actor, meter_id, is_disabled=True))


def set_consent(
    transaction: InTransaction, actor: Actor, meter_id: str, consent_id: str | None
) -> Script[Meter]:
    """Covers a meter by this consent alone, or by none. What a feed fetches of it begins or ends with its consent.

    Raises NOT_FOUND, or CONFLICT on `hostedConsentId` for a consent of another customer or about other meters.
    """
    meter = yield from _lock(actor, meter_id)
    if consent_id is not None:
        yield from _require_covering(actor, meter, consent_id)
    was_consented = yield from coverage.meters_with_valid_consent([meter.id], clock.now())
    yield _UNLINK, {"wanted_id": meter.id}
    if consent_id is not None:
        yield from _LINKS.insert([_LINKS.new(meter_id=meter.id, hosted_consent_id=consent_id)])
    if was_consented:
        yield from backfill_plans.end_where_not_consented([meter.id])
    else:
        yield from backfill_plans.begin_where_consented(transaction, [meter.id])
    meter.updated_at = clock.now()
    yield from _TOUCH(meter)
    return meter


def _lock(actor: Actor, meter_id: str) -> Script[Meter]:
    """Finds a meter and holds off concurrent changes. Raises NOT_FOUND on `meterId`."""
    found = yield _LOCK.by(actor, wanted_id=meter_id)
    if not found:
        raise not_found("meter", "meterId")
    return _METERS.row(found[0])


def _switch(actor: Actor, meter_id: str, *, is_disabled: bool) -> Script[Meter]:
    meter = yield from _lock(actor, meter_id)
    if meter.is_disabled is not is_disabled:
        meter.is_disabled = is_disabled
        meter.updated_at = clock.now()
        meter.enabled_at = None if is_disabled else meter.updated_at
        yield from _SWITCH(meter)
    return meter


def _require_covering(actor: Actor, meter: Meter, consent_id: str) -> Script[None]:
    found = yield _CONSENT.by(actor, wanted_id=consent_id)
    if not found:
        raise not_found("hosted consent", "hostedConsentId")
    consent = _CONSENTS.row(found[0])
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


def _of_numbers(customer_id: str, wanted: list[str]) -> Script[dict[str, Meter]]:
    """The customer's meters with these numbers, by number."""
    if not wanted:
        return {}
    found = yield _OF_NUMBERS, {"customer_id": customer_id, "numbers": pad_to_power_of_two(wanted)}
    return {meter.number: meter for meter in map(_METERS.row, found)}


def _add(
    transaction: InTransaction, customer: Customer, meters: Sequence[Meter], consents: Rows
) -> Script[None]:
    """Inserts new meters of one customer and their links to its `consents`, and appends their events."""
    yield from _METERS.insert(meters)
    links = [
        _LINKS.new(meter_id=meter.id, hosted_consent_id=consent.id)
        for consent in (_CONSENTS.of(dict(zip(_COVERING, row, strict=True))) for row in consents)
        for meter in meters
        if consent.covers(meter.number)
    ]
    yield from _LINKS.insert(links)
    at = clock.now()
    ids = [meter.id for meter in meters]
    effective = (yield from coverage.effective_consents(ids, at)) if links else {}
    for meter in meters:
        event = MeterCreated.of(meter, customer, effective.get(meter.id), at)
        log.append(transaction, meter.account_id, event)


def _meter(customer: Customer, number: numbers.ParsedNumber, **values: Any) -> Meter:
    return _METERS.new(
        account_id=customer.account_id,
        customer_id=customer.id,
        number=number.core,
        type=number.type.name,
        has_invalid_number=number.invalid,
        **values,
    )


def _parsed(number: str, type: MeterType | None, *field: str) -> numbers.ParsedNumber:
    try:
        return numbers.parse(number, type)
    except numbers.InvalidMeterNumber as error:
        raise Refusal(ErrorCode.INVALID_METER_NUMBER, str(error), *field) from None
