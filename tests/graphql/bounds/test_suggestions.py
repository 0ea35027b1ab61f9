"""Names of the schema are suggested for unknown names."""

from typing import Any

import pytest
from graphql import build_schema

from app.graphql.bounds.suggestions import suggest
from tests.support import World


@pytest.mark.parametrize(
    ("query", "variables", "message"),
    [
        (
            "{ metrs { nodes { id } } }",
            None,
            "Cannot query field 'metrs' on type 'Query'. Did you mean 'meters', 'meter' or 'users'?",
        ),
        (
            "{ METERZ { nodes { id } } }",
            None,
            "Cannot query field 'METERZ' on type 'Query'. Did you mean 'meter' or 'meters'?",
        ),
        ("{ viewer { qqqq } }", None, "Cannot query field 'qqqq' on type 'Viewer'."),
        (
            '{ node(id: "x") { number } }',
            None,
            "Cannot query field 'number' on type 'Node'. Did you mean to use an inline fragment on 'Meter'?",
        ),
        (
            "{ meters(frist: 1) { nodes { id } } }",
            None,
            "Unknown argument 'frist' on field 'Query.meters'. Did you mean 'first'?",
        ),
        (
            "{ meters(filter: {types: [ELECTRICTY]}) { nodes { id } } }",
            None,
            "Value 'ELECTRICTY' does not exist in 'MeterType' enum. Did you mean 'ELECTRICITY'?",
        ),
        (
            "query ($filter: MeterFilter) { meters(filter: $filter) { nodes { id } } }",
            {"filter": {"type": ["GAS"]}},
            (
                "Variable '$filter' has invalid value: Expected value of type 'MeterFilter' not to include "
                "unknown field 'type', found: {'type': ['GAS']}. Did you mean 'types'?"
            ),
        ),
        (
            "query ($filter: MeterFilter) { meters(filter: $filter) { nodes { id } } }",
            {"filter": {"types": ["GASS"]}},
            (
                "Variable '$filter' has invalid value at .types[0]: Value 'GASS' does not exist in "
                "'MeterType' enum. Did you mean 'GAS'?"
            ),
        ),
        (
            '{ events(filter: {types: ["meter.created"]}) { nodes { id } } }',
            None,
            (
                "Enum 'EventType' cannot represent non-enum value: \"meter.created\". "
                "Write METER_CREATED without quotes."
            ),
        ),
        (
            '{ events(filter: {types: ["METER_CREATED"]}) { nodes { id } } }',
            None,
            (
                "Enum 'EventType' cannot represent non-enum value: \"METER_CREATED\". "
                "Write METER_CREATED without quotes."
            ),
        ),
        (
            "query ($filter: EventFilter) { events(filter: $filter) { nodes { id } } }",
            {"filter": {"types": ["meter_data.received"]}},
            (
                "Variable '$filter' has invalid value at .types[0]: Value 'meter_data.received' does not exist in "
                "'EventType' enum. Write METER_DATA_RECEIVED."
            ),
        ),
        (
            "{ meters(filter: {types: [gas]}) { nodes { id } } }",
            None,
            "Value 'gas' does not exist in 'MeterType' enum. Write GAS.",
        ),
        (f"{{ meters{'s' * 58} }}", None, f"Cannot query field 'meters{'s' * 58}' on type 'Query'."),
    ],
)
async def test_names_that_are_nearly_right_are_suggested(
    world: World, query: str, variables: dict[str, Any] | None, message: str
) -> None:
    account = await world.account()
    response = await world.ask(query, variables, key=account.key)
    assert [one["message"] for one in response["errors"]] == [message]


async def test_only_the_first_few_names_are_looked_for(world: World) -> None:
    account = await world.account()
    response = await world.ask("{ viewer { scope scpes scoped scops scopez } }", key=account.key)
    suggested = ["Did you mean 'scopes'?" in one["message"] for one in response["errors"]]
    assert suggested == [True, True, True, False, False]


@pytest.mark.parametrize(("length", "is_told"), [(64, True), (65, False)])
def test_a_name_is_looked_for_up_to_a_length(length: int, is_told: bool) -> None:
    name = "a" * (length - 1)
    schema = build_schema(f"type Query {{ {name}b: Int }}")
    message = f"Cannot query field '{name}c' on type 'Query'."
    errors = [{"message": message}]
    suggest(schema, errors)
    assert errors == [{"message": message + (f" Did you mean '{name}b'?" if is_told else "")}]
