"""Looks up the metadata that the filters of destinations compare with: of customers and of meters."""

from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import ColumnElement, bindparam, exists, or_, select
from sqlmodel import col

from app.customers.models import Customer
from app.db.labels import labels_contain
from app.db.raw_statements import Script, pad_to_power_of_two
from app.delivery.queue.filters import MetadataLookup
from app.events.models import EventMeter, EventRecord
from app.meters.models import Meter

IDS_AT_ONCE = 512
_LABELS: Final = [
    select(col(model.id), col(model.labels)).where(
        col(model.account_id) == bindparam("account"), col(model.id).in_(bindparam("ids", expanding=True))
    )
    for model in (Customer, Meter)
]


class CustomersAndMeters:
    """The queue's `MetadataLookup`."""

    def of(self, account_id: str, ids: Collection[str]) -> Script[Mapping[str, Mapping[str, str]]]:
        found: dict[str, Mapping[str, str]] = {}
        wanted = sorted(ids)
        for start in range(0, len(wanted), IDS_AT_ONCE):
            some = pad_to_power_of_two(wanted[start : start + IDS_AT_ONCE])
            for statement in _LABELS:
                rows = yield statement, {"account": account_id, "ids": some}
                found |= {identifier: labels for identifier, labels in rows}  # noqa: C416 - rows of any sequence
        return found

    def carried(self, metadata: Mapping[str, str]) -> ColumnElement[bool]:
        customer = exists().where(
            col(Customer.id) == col(EventRecord.customer_id),
            labels_contain(col(Customer.labels), dict(metadata)),
        )
        meter = exists().where(
            col(EventMeter.account_id) == col(EventRecord.account_id),
            col(EventMeter.sequence) == col(EventRecord.sequence),
            col(Meter.id) == col(EventMeter.meter_id),
            labels_contain(col(Meter.labels), dict(metadata)),
        )
        return or_(customer, meter)


METADATA: Final[MetadataLookup] = CustomersAndMeters()
