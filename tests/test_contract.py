"""Written promises to users: the schema, the catalogue of events, the table of settings."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLSchema, build_schema, find_breaking_changes, is_non_null_type, print_ast
from jsonschema import Draft202012Validator

from app.core.errors import ErrorCode
from app.core.settings import Settings
from app.events.catalogue import EventData, catalogue
from app.graphql.engine import OPEN_FIELDS
from app.schema import schema_text
from tests.support import World, the_schema

ROOT = Path(__file__).resolve().parents[1]
# Where the promised core of the schema lies beside the repository.
CORE = Path(os.environ.get("VOLTWIRE_TEST_CONTRACT") or ROOT.parent / "shared" / "contract.graphql")


def served() -> GraphQLSchema:
    schema: GraphQLSchema = the_schema()._schema
    return schema


def test_the_schema_file_is_what_is_served() -> None:
    assert (ROOT / "schema.graphql").read_text() == schema_text()


def test_the_schema_file_can_be_read_by_any_tool() -> None:
    assert find_breaking_changes(build_schema((ROOT / "schema.graphql").read_text()), served()) == []


@pytest.mark.skipif(not CORE.is_file(), reason="the promised core is not beside the repository")
def test_the_promised_core_is_served_as_promised() -> None:
    core = build_schema(CORE.read_text())
    assert find_breaking_changes(core, served()) == []
    promised, kept = shapes(core), shapes(build_schema(schema_text()))
    assert {name: kept.get(name) for name in promised} == promised


def shapes(schema: GraphQLSchema) -> dict[str, str]:
    """The exact type of each field, argument and input field, by its coordinate; a default but null beside it."""
    found: dict[str, str] = {}
    for type in schema.type_map.values():
        fields: dict[str, Any] = {} if type.name.startswith("__") else getattr(type, "fields", {})
        for name, field in fields.items():
            found[f"{type.name}.{name}"] = shape(field.ast_node)
            for argument, one in getattr(field, "args", {}).items():
                found[f"{type.name}.{name}({argument}:)"] = shape(one.ast_node)
    return found


def shape(node: Any) -> str:
    default = getattr(node, "default_value", None)
    text = "null" if default is None else print_ast(default)
    return print_ast(node.type) + ("" if text == "null" else f" = {text}")


def test_a_mutation_that_fails_takes_no_other_with_it() -> None:
    root = served().mutation_type
    assert root is not None
    assert [name for name, field in root.fields.items() if is_non_null_type(field.type)] == []


async def test_the_served_schema_is_what_introspection_shows(world: World) -> None:
    data = await world.data("{ __schema { types { name } subscriptionType { fields { name } } } }")
    assert {one["name"] for one in data["__schema"]["types"]} == set(served().type_map)
    assert data["__schema"]["subscriptionType"]["fields"] == [{"name": "events"}]


def test_every_error_code_of_a_rule_is_in_the_schema() -> None:
    codes: Any = served().type_map["ErrorCode"]
    assert set(codes.values) == {one.name for one in ErrorCode} == {one.value for one in ErrorCode}


def test_what_is_open_to_strangers_is_there() -> None:
    roots = [served().query_type, served().mutation_type]
    fields = {name for root in roots if root is not None for name in root.fields}
    assert {one for one in OPEN_FIELDS if not one.startswith("__")} <= fields


def test_the_catalogue_has_every_event() -> None:
    names = {one.constant() for one in catalogue()}
    enum: Any = served().type_map["EventType"]
    assert set(enum.values) == names


@pytest.mark.parametrize("event", catalogue(), ids=lambda one: one.type)
def test_an_example_fits_its_schema_and_nothing_more(event: type[EventData]) -> None:
    schema = event.json_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    validator.validate(event.example)
    assert (schema["title"], schema["description"]) == (event.type, event.description)
    assert set(event.example) == set(schema["properties"])
    for name in schema["required"]:
        without = {key: value for key, value in event.example.items() if key != name}
        assert not validator.is_valid(without)
    # The example is what would be recorded, in the same spelling.
    names = {field.serialization_alias: name for name, field in event.model_fields.items()}
    recorded = event.model_validate({names[key]: value for key, value in event.example.items()})
    assert recorded.data() == event.example


async def test_the_catalogue_is_shown_to_everyone(world: World) -> None:
    shown = (await world.data("{ eventTypes { type name description schema example } }"))["eventTypes"]
    assert shown == [
        {
            "type": one.constant(),
            "name": one.type,
            "description": one.description,
            "schema": one.json_schema(),
            "example": one.example,
        }
        for one in catalogue()
    ]


def test_the_readmes_table_lists_the_settings_and_their_defaults() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| `VOLTWIRE_")
    ]
    listed = {name: row[1] for row in rows for name in re.findall(r"`(VOLTWIRE_\w+)`", row[0])}
    fields = {f"VOLTWIRE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert set(listed) == set(fields)
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, int | float | str):
            assert (name, listed[name]) == (name, f"`{default}`")
        if name == "VOLTWIRE_WEBHOOK_RETRY_SCHEDULE":
            assert listed[name] == f"`{','.join(str(one) for one in default)}`"
