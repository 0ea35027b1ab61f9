"""Approved consents that run out raise hosted_consent.expired, once, by the worker, and end what feeds fetch by them.

The row that says so changes in the transaction that appends the event, under its lock. A consent that is locked by
another worker or decision is passed over until the next turn; one that was revoked meanwhile raises none.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import bindparam, literal_column, select, update
from sqlmodel import col

from app.consents.events import HostedConsentExpired
from app.consents.models import ConsentMeter, ConsentStatus, HostedConsent
from app.core import clock, failpoints
from app.db.database import Database
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.db.types import UtcDateTime
from app.events import log as event_log
from app.events.models import RaisedSince
from app.feeds import backfill_plans
from app.meters.models import Meter

AT_ONCE: Final = 50
"""Consents of one transaction. All that end on one day do so at the same instant."""

_CONSENTS: Final = Table(HostedConsent)
_METERS: Final = Table(Meter)
_AT: Final = bindparam("at", type_=UtcDateTime())
_SINCE: Final = (
    select(col(RaisedSince.since)).where(col(RaisedSince.type) == HostedConsentExpired.type).scalar_subquery()
)
_DUE: Final = (
    select(*_CONSENTS.columns)
    .where(
        # The words of the index: a parameter in their place would hide it.
        col(HostedConsent.decision) == literal_column("'APPROVED'"),
        col(HostedConsent.expiry_raised_at).is_(None),
        col(HostedConsent.expires_at) <= _AT,
        col(HostedConsent.expires_at) > _SINCE,
    )
    .order_by(col(HostedConsent.expires_at), col(HostedConsent.id))
)
_ANY: Final = _DUE.with_only_columns(col(HostedConsent.id)).limit(1)
_TAKE: Final = _DUE.limit(AT_ONCE).with_for_update(skip_locked=True, key_share=True)
_COVERED: Final = (
    select(col(ConsentMeter.hosted_consent_id), *_METERS.columns)
    .join(Meter, col(Meter.id) == col(ConsentMeter.meter_id))
    .where(col(ConsentMeter.hosted_consent_id).in_(bindparam("ids", expanding=True)))
    .order_by(col(Meter.id))
)
_RAISED: Final = (
    update(_CONSENTS.table)
    .where(_CONSENTS.table.c.id.in_(bindparam("ids", expanding=True)))
    .values(expiry_raised_at=_AT)
)

log = structlog.get_logger(__name__)


class Expiries:
    """Raises the events of consents that have run out. Any number of workers may do it at once."""

    def __init__(self, database: Database, now: Callable[[], datetime] = clock.now) -> None:
        self._database = database
        self._now = now

    async def step(self) -> bool:
        """Raises some that are due in one transaction; False if there were none."""
        at = self._now()
        if not await self._database.read(_ANY, {"at": at}):
            return False
        raised = await self._database.transact(lambda transaction: _raise(transaction, at))
        failpoints.reach("expiries.committed")
        if raised:
            log.info("hosted_consents_expired", count=raised)
        return raised > 0


def _raise(transaction: InTransaction, at: datetime) -> Script[int]:
    consents = [_CONSENTS.row(row) for row in (yield _TAKE, {"at": at})]
    if not consents:
        return 0
    ids = pad_to_power_of_two([consent.id for consent in consents])
    covered = yield from _covered_meters(ids)
    yield _RAISED, {"ids": ids, "at": at}
    theirs = {meter.id for of_consent in covered.values() for meter in of_consent}
    yield from backfill_plans.end_where_not_consented(theirs, at)
    for consent in consents:
        event = HostedConsentExpired.of(consent, ConsentStatus.EXPIRED, covered.get(consent.id, ()))
        event_log.append(transaction, consent.account_id, event)
    failpoints.reach("expiries.before_commit")
    return len(consents)


def _covered_meters(consent_ids: list[str]) -> Script[dict[str, Sequence[Meter]]]:
    """The meters that each consent covers, in the order of their ids."""
    covered: dict[str, list[Meter]] = {}
    for consent_id, *meter in (yield _COVERED, {"ids": consent_ids}):
        covered.setdefault(consent_id, []).append(_METERS.row(meter))
    return dict(covered)
