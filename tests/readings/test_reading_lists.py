"""Lists of readings converted as a whole, beside their conversion by graphql-core and Strawberry."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from graphql import Undefined
from graphql.utilities import coerce_input_value
from hypothesis import given
from hypothesis import strategies as st
from strawberry.types.arguments import convert_argument

from app.core import clock, json_decimals
from app.graphql.idempotency import hash_of
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingQuality
from app.readings.graphql import ReadingInput, RecordReadingsInput
from app.readings.reading_lists import ReadingList
from tests.accounts.state import unchanged
from tests.readings.metered import RECORD, metered, reading
from tests.support import World, the_schema

SCHEMA = the_schema()
LIST_TYPE: Any = SCHEMA._schema.type_map["RecordReadingsInput"].fields["readings"].type  # type: ignore[attr-defined]

HALF_HOURS = st.integers(-9, 9).map(lambda at: datetime(2024, 5, 1, tzinfo=UTC) + at * timedelta(minutes=30))
STARTS = HALF_HOURS.map(clock.format_utc) | HALF_HOURS.map(datetime.isoformat)
AMOUNTS = st.sampled_from(["0", "1.5", "12.345678", 7, 0]) | st.integers(0, 10**8).map(
    lambda at: Decimal(at) / 10**4
)
QUALITIES = st.sampled_from([None, "ACTUAL", "ESTIMATED"])
USUAL = st.fixed_dictionaries({"startAt": STARTS, "consumption": AMOUNTS}, optional={"quality": QUALITIES})
ODD = (
    st.sampled_from(
        ["", "x", " 1", "-1", "1e3", "1.0000001", "1" * 10, "1" * 13, "2024-05-01T00:15:00Z", "2024-05-01T00:00:00",
         "2024-02-30T00:00:00Z", "actual", True, 1.5, [], {}, -1, 10**12]
    )
    | st.none()
)  # fmt: skip
CHANGES = st.tuples(st.integers(0, 5), st.sampled_from(["startAt", "consumption", "quality", "color"]), ODD)


class Digits(float):
    """A decimal that JSON shows with its digits."""

    def __init__(self, value: Decimal) -> None:
        self._text = str(value)

    def __repr__(self) -> str:
        return self._text


def sent(values: list[Any]) -> list[Any]:
    """The values as they come out of a request's body."""
    given: list[Any] = json_decimals.loads(json.dumps(values, default=Digits))
    return given


def as_inputs(values: list[Any]) -> list[ReadingInput] | None:
    coerced = coerce_input_value(values, LIST_TYPE)
    if coerced is Undefined:
        return None
    registry = SCHEMA.schema_converter.scalar_registry
    return [convert_argument(one, ReadingInput, registry, SCHEMA.config) for one in coerced]  # type: ignore[misc]


def require_same(values: list[Any]) -> ReadingList | None:
    converted, inputs = ReadingList.of(values), as_inputs(values)
    if converted is not None:
        assert inputs is not None
        starts, amounts, estimated = converted.columns
        assert [clock.from_ms(start * HALF_HOUR_MS) for start in starts] == [one.start_at for one in inputs]
        assert amounts == [int(one.consumption) for one in inputs]
        assert estimated == [one.quality is ReadingQuality.ESTIMATED for one in inputs]
        whole: Any = converted
        assert hash_of(RecordReadingsInput(meter_id="mtr_1", readings=whole)) == hash_of(
            RecordReadingsInput(meter_id="mtr_1", readings=inputs)
        )
    return converted


@given(st.lists(USUAL, min_size=1, max_size=6))
def test_usual_readings_are_converted_as_graphql_core_converts_them(values: list[Any]) -> None:
    assert require_same(sent(values)) is not None


@given(st.lists(USUAL, min_size=1, max_size=6), st.lists(CHANGES, max_size=2), st.lists(ODD, max_size=1))
def test_what_graphql_core_refuses_is_left_to_it(
    values: list[Any], changes: list[tuple[int, str, Any]], more: list[Any]
) -> None:
    given = sent(values)
    for at, name, value in changes:
        given[at % len(given)][name] = value
    require_same(given + more)


@pytest.mark.both_databases
async def test_an_error_shows_the_values_that_were_sent(world: World) -> None:
    meter = await metered(world)
    given = {"meterId": meter.meter_id, "readings": [reading("00:00", "1")], "extra": 1}
    async with unchanged(world):
        [error] = (await world.ask(RECORD, {"input": given}, key=meter.account.key))["errors"]
    assert "'readings': [{...}], 'extra': 1" in error["message"]


@pytest.mark.both_databases
async def test_readings_are_taken_from_a_variable_of_their_own_too(world: World) -> None:
    meter = await metered(world)
    query = (
        "mutation ($id: ID!, $readings: [ReadingInput!]!) "
        "{ recordReadings(input: {meterId: $id, readings: $readings}) { accepted userErrors { field code } } }"
    )

    async def record(*readings: dict[str, Any]) -> Any:
        variables = {"id": meter.meter_id, "readings": list(readings)}
        return (await world.data(query, variables, key=meter.account.key))["recordReadings"]

    assert await record(reading("00:00", "1"), reading("00:30", "2", "ESTIMATED")) == {
        "accepted": 2,
        "userErrors": [],
    }
    assert await record(reading("00:00", "1"), reading("00:00", "2")) == {
        "accepted": None,
        "userErrors": [{"field": ["readings", "1", "startAt"], "code": "INVALID"}],
    }


@pytest.mark.both_databases
async def test_a_repeated_request_is_known_by_its_readings_whatever_their_form(world: World) -> None:
    meter = await metered(world)
    first = await meter.record(reading("00:00", "1.50"), idempotencyKey="a")
    assert first["changed"] == 1
    # More digits than a list that is converted as a whole has; the same reading.
    assert await meter.record(reading("00:00", "0000000001.5"), idempotencyKey="a") == first
    other = await meter.record(reading("00:00", "2"), idempotencyKey="a")
    assert [one["code"] for one in other["userErrors"]] == ["IDEMPOTENCY_KEY_REUSED"]
