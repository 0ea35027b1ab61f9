"""A part of destinations' filters has a name and a key; wherever it is forgotten, a test here fails."""

from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy import select

from app.delivery.graphql.shared import DestinationFilter, DestinationFilterInput, stored_filter
from app.delivery.metadata import METADATA
from app.delivery.queue.filters import PARTS, Subjects, narrow
from app.events.models import EventRecord

GIVEN: dict[str, Any] = {"customer_ids": ["cus_1"], "meter_ids": ["mtr_1"], "metadata": {"site": "a"}}
RECORD = EventRecord(account_id="acc_1", sequence=1, type="user.created", customer_id=None)


def test_the_api_has_every_part() -> None:
    for one in (DestinationFilter, DestinationFilterInput):
        assert [field.name for field in fields(one)] == list(PARTS) == list(GIVEN)
    stored = stored_filter(DestinationFilterInput(**GIVEN))
    assert stored == {name: GIVEN[part] for part, name in PARTS.items()}
    assert DestinationFilter.of(stored) == DestinationFilter(**GIVEN)


@pytest.mark.parametrize("part", GIVEN)
def test_each_part_decides_alone(part: str) -> None:
    stored = {PARTS[part]: GIVEN[part]}
    assert Subjects().fit({}, RECORD)
    assert not Subjects().fit(stored, RECORD)
    assert len(narrow(select(EventRecord), stored, METADATA)._where_criteria) == 1
