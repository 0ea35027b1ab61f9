"""From a GraphQL input to the arguments of an action."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import strawberry
from pydantic.alias_generators import to_camel

from app.core.errors import BadUserInput

# A database takes some thousands of values in one statement; nobody filters by more than a few by hand.
MAX_VALUES: Final = 1000


def require_bounded(filter: Any) -> None:
    """Raises BadUserInput where a list of a filter has more values than one statement should carry."""
    require_few({to_camel(one.name): getattr(filter, one.name) for one in dataclasses.fields(filter)})


def require_few(filter: Mapping[str, Any]) -> None:
    """The same for a filter by its names in GraphQL."""
    for name, value in filter.items():
        if isinstance(value, list | dict) and len(value) > MAX_VALUES:
            raise BadUserInput(
                f"filter.{name} has {len(value)} values; give at most {MAX_VALUES} at once.",
                field=["filter", name],
            )


def given_values(values: dict[str, Any]) -> dict[str, Any]:
    """Those of a filter that are not null."""
    return {name: value for name, value in values.items() if value is not None}


def given(input: Any, *names: str, **renamed: str) -> dict[str, Any]:
    """The fields that the client gave, null included; `metadata="labels"` renames on the way."""
    pairs = {**{name: name for name in names}, **renamed}
    values = {target: getattr(input, name) for name, target in pairs.items()}
    return {name: value for name, value in values.items() if value is not strawberry.UNSET}
