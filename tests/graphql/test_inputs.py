"""Inputs are made as Strawberry makes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    Undefined,
    get_named_type,
)
from strawberry.types.arguments import convert_argument

from tests.support import the_schema

SCHEMA = the_schema()
MUTATIONS = SCHEMA._schema.mutation_type
assert MUTATIONS is not None
INPUTS = {
    name: get_named_type(field.args["input"].type)
    for name, field in MUTATIONS.fields.items()
    if "input" in field.args
}


def sample(type_: Any, *, full: bool) -> Any:
    """A value of a type as graphql-core gives it to resolvers; without `full` all is null that may be."""
    if isinstance(type_, GraphQLNonNull):
        return sample(type_.of_type, full=full) if full else sample_of(type_.of_type, full=False)
    return sample_of(type_, full=True) if full else None


def sample_of(type_: Any, *, full: bool) -> Any:
    if isinstance(type_, GraphQLList):
        return [sample(type_.of_type, full=full), sample(type_.of_type, full=full)]
    if isinstance(type_, GraphQLInputObjectType):
        return {name: sample(field.type, full=full) for name, field in type_.fields.items()}
    if isinstance(type_, GraphQLEnumType):
        return next(iter(type_.values.values())).value
    return object()


def values(type_: GraphQLInputObjectType) -> Iterator[dict[str, Any]]:
    for full in (True, False):
        yield sample_of(type_, full=full)
    # Only what must be given, and what has a default.
    needed = {
        name: sample(field.type, full=True)
        for name, field in type_.fields.items()
        if isinstance(field.type, GraphQLNonNull)
    }
    yield needed
    defaults = {
        name: field.default_value
        for name, field in type_.fields.items()
        if field.default_value is not Undefined
    }
    yield defaults | needed


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_what_strawberry_makes_of_it(name: str) -> None:
    type_ = INPUTS[name]
    definition = type_.extensions["strawberry-definition"]
    cls = definition.origin
    assert cls.__strawberry_definition__ is definition
    converter = SCHEMA.schema_converter
    for given in values(type_):
        before = repr(given)
        made = convert_argument(given, cls, converter.scalar_registry, SCHEMA.config)
        directly, definition.from_input = definition.from_input, None
        try:
            expected = convert_argument(given, cls, converter.scalar_registry, SCHEMA.config)
        finally:
            definition.from_input = directly
        assert vars(made) == vars(expected)
        assert type(made) is type(expected)
        assert repr(given) == before


def test_most_mutations_convert_their_inputs_directly() -> None:
    direct = [
        name
        for name, type_ in INPUTS.items()
        if type_.extensions["strawberry-definition"].from_input is not None
    ]
    assert {"createMeter", "updateMeter", "createCustomer", "recordReadings"} <= set(direct)
