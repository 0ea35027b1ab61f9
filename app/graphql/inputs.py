"""Turns a GraphQL input into the arguments of an action."""

from typing import Any

import strawberry


def given(input: Any, *names: str, **renamed: str) -> dict[str, Any]:
    """The fields that the client gave, null included; `metadata="labels"` renames one."""
    pairs = {**{name: name for name in names}, **renamed}
    values = {target: getattr(input, name) for name, target in pairs.items()}
    return {name: value for name, value in values.items() if value is not strawberry.UNSET}
