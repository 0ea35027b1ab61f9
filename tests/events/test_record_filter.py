"""A field of the filters on events is declared once; wherever it is forgotten, a test here fails."""

from dataclasses import fields

import pytest
from sqlalchemy import select

from app.events.models import EventRecord
from app.events.record_filter import CONDITIONS, RecordFilter
from app.graphql.events import EventFilter

RECORD = EventRecord(account_id="acc_1", sequence=1, type="meter.created", customer_id="cus_1")
NAMES = [field.name for field in fields(RecordFilter)]


def test_log_and_api_have_the_same_fields() -> None:
    assert NAMES == list(CONDITIONS) == [field.name for field in fields(EventFilter)]


@pytest.mark.parametrize("name", NAMES)
def test_each_field_decides_alone(name: str) -> None:
    nothing = RecordFilter(**{name: frozenset()})
    assert RecordFilter().takes(RECORD, ["mtr_1"])
    assert not nothing.takes(RECORD, ["mtr_1"])
    every = select(EventRecord)
    assert RecordFilter().narrow(every) is every
    assert len(nothing.narrow(every)._where_criteria) == 1
