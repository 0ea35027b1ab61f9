"""Coverage of meters by consents, and the effective consent of each meter.

Rows of `consent_meters` are created with each consent and each meter, so that both flow types are read alike. A meter's
effective consent is the valid one with the latest expiry, else the one decided last, else a pending one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, literal_column, or_
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consents.models import ConsentFlowType, ConsentMeter, ConsentStatus, Decision, HostedConsent
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.rows import Table
from app.db.types import UtcDateTime
from app.meters.enums import MeterStatus
from app.meters.models import Meter, MeterFlags


async def link_meters(session: AsyncSession, consent: HostedConsent) -> None:
    """Links a consent to those meters of its customer that it names and is not linked to yet."""
    linked = select(col(ConsentMeter.meter_id)).where(col(ConsentMeter.hosted_consent_id) == consent.id)
    statement = select(col(Meter.id)).where(
        col(Meter.customer_id) == consent.customer_id, col(Meter.id).not_in(linked)
    )
    if consent.flow_type == ConsentFlowType.GB_RESIDENTIAL_SPECIFIC.name:
        statement = statement.where(col(Meter.number).in_(consent.meter_numbers))
    meter_ids = (await session.execute(statement)).scalars()
    session.add_all(ConsentMeter(meter_id=one, hosted_consent_id=consent.id) for one in meter_ids)
    await session.flush()


async def covered_meters(session: AsyncSession, consent_id: str) -> list[Meter]:
    """The meters that a consent covers, in the order of their ids."""
    statement = (
        select(Meter)
        .join(ConsentMeter, col(ConsentMeter.meter_id) == col(Meter.id))
        .where(col(ConsentMeter.hosted_consent_id) == consent_id)
        .order_by(col(Meter.id))
    )
    return list((await session.exec(statement)).all())


def precedence(at: datetime) -> tuple[ColumnElement[Any], ...]:
    """SQL order of one meter's consents, the effective one first."""
    valid = HostedConsent.in_force(at)
    undecided = col(HostedConsent.decision) == ConsentStatus.PENDING.value
    rank = case(
        (valid, 0), (~undecided, 1), (and_(undecided, col(HostedConsent.expires_at) > at), 2), else_=3
    )
    return (
        rank,
        case((valid, col(HostedConsent.expires_at))).desc(),
        col(HostedConsent.decided_at).desc(),
        col(HostedConsent.id).desc(),
    )


def effective_consent_id(meter_id: ColumnElement[Any], at: Any) -> Any:
    """SQL id of the effective consent of a meter of the enclosing statement."""
    return (
        select(col(HostedConsent.id))
        .join(ConsentMeter, col(ConsentMeter.hosted_consent_id) == col(HostedConsent.id))
        .where(col(ConsentMeter.meter_id) == meter_id)
        .order_by(*precedence(at))
        .limit(1)
        .correlate(meter_id.table)
        .scalar_subquery()
    )


def ranked_consents(meter_ids: Any, at: Any) -> Select[Any]:
    """Selects (meter id, consent), each meter's effective consent first."""
    return (
        select(col(ConsentMeter.meter_id), HostedConsent)  # type: ignore[return-value]
        .join(HostedConsent, col(HostedConsent.id) == col(ConsentMeter.hosted_consent_id))
        .where(col(ConsentMeter.meter_id).in_(meter_ids))
        .order_by(col(ConsentMeter.meter_id), *precedence(at))
    )


_METERS: Final[Any] = bindparam("meter_ids", expanding=True)
_AT: Final[Any] = bindparam("at", type_=UtcDateTime())
_CONSENTS: Final = Table(HostedConsent)
_RANKED: Final = ranked_consents(_METERS, _AT).with_only_columns(
    col(ConsentMeter.meter_id), *_CONSENTS.columns
)
_WITH_VALID: Final = (
    select(col(ConsentMeter.meter_id))
    .join(HostedConsent, col(HostedConsent.id) == col(ConsentMeter.hosted_consent_id))
    .where(col(ConsentMeter.meter_id).in_(_METERS), HostedConsent.in_force(_AT))
)
_IN_FORCE: Final = HostedConsent.in_force(literal_column("@instant(:consent_at)"))
HAS_VALID: Final = f"""EXISTS (
    SELECT 1 FROM consent_meters JOIN hosted_consents ON hosted_consents.id = consent_meters.hosted_consent_id
    WHERE consent_meters.meter_id = :meter_id AND {_IN_FORCE.compile(compile_kwargs={"literal_binds": True})}
)"""  # noqa: S608 - our own words
"""For `Sql`: whether a meter has a valid consent at a time in milliseconds since 1970."""


def effective_consents(meter_ids: Sequence[str], at: datetime) -> Script[dict[str, HostedConsent]]:
    """Effective consents by meter id; meters without a consent are absent."""
    best: dict[str, HostedConsent] = {}
    for meter_id, *consent in (yield _RANKED, _of_meters(meter_ids, at)):
        if meter_id not in best:
            best[meter_id] = _CONSENTS.row(consent)
    return best


def meters_with_valid_consent(meter_ids: Sequence[str], at: datetime) -> Script[set[str]]:
    """Ids of the given meters that have a valid consent."""
    found = yield _WITH_VALID, _of_meters(meter_ids, at)
    return {meter_id for (meter_id,) in found}


def _of_meters(meter_ids: Sequence[str], at: datetime) -> dict[str, Any]:
    return {"meter_ids": pad_to_power_of_two(list(meter_ids)), "at": at}


def status(meter: Meter | MeterFlags, consent: HostedConsent | Decision | None, at: datetime) -> MeterStatus:
    """ACTIVE: valid consent and enabled. PENDING: only an undecided consent. INACTIVE: otherwise."""
    state = None if consent is None else consent.status(at)
    if state is ConsentStatus.PENDING:
        return MeterStatus.PENDING
    return (
        MeterStatus.ACTIVE
        if state is ConsentStatus.APPROVED and not meter.is_disabled
        else MeterStatus.INACTIVE
    )


def is_expired(consent: HostedConsent | Decision | None, at: datetime) -> bool:
    """Whether the meter's consent was approved and has expired."""
    return (
        consent is not None
        and consent.decision == ConsentStatus.APPROVED.value
        and consent.status(at) is ConsentStatus.EXPIRED
    )


def is_missing(consent: HostedConsent | Decision | None, at: datetime) -> bool:
    """Whether the meter has neither a valid nor an expired consent."""
    return not is_expired(consent, at) and (consent is None or not consent.is_valid(at))


class MeterState:
    """Status of meters as SQL, for filters: join with `joined`, then use the expressions."""

    def __init__(self, at: Any) -> None:
        counts = aliased(HostedConsent)
        self._best = effective_consent_id(Meter.__table__.c.id, at)  # type: ignore[attr-defined]
        self._consent = counts
        approved = col(counts.decision) == ConsentStatus.APPROVED.value
        present = col(counts.id).is_not(None)
        self.valid: Any = and_(present, approved, col(counts.expires_at) > at)
        self.expired: Any = and_(present, approved, col(counts.expires_at) <= at)
        self.pending: Any = and_(
            present, col(counts.decision) == ConsentStatus.PENDING.value, col(counts.expires_at) > at
        )

    def joined(self, statement: Select[Any]) -> Select[Any]:
        return statement.outerjoin(self._consent, col(self._consent.id) == self._best)

    @property
    def missing(self) -> Any:
        return ~or_(self.valid, self.expired)

    def has_status(self, wanted: MeterStatus) -> Any:
        active = and_(self.valid, col(Meter.is_disabled).is_(False))
        if wanted is MeterStatus.ACTIVE:
            return active
        return self.pending if wanted is MeterStatus.PENDING else ~or_(active, self.pending)
