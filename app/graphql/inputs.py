"""GraphQL inputs: fast conversion of the client's values, and the arguments of actions."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from functools import cache
from typing import Any, Final

import strawberry
from strawberry.types.arguments import InputContext
from strawberry.types.base import StrawberryContainer, StrawberryList, StrawberryMaybe, StrawberryOptional
from strawberry.types.lazy_type import LazyType

from app.graphql.list_inputs import ConvertedList

Convert = Callable[[Any, InputContext], Any]
_MISSING: Final = object()


def convert_directly(cls: type) -> None:
    """Has Strawberry make inputs of this class by conversions that are found once, with the same results."""
    cls.__strawberry_definition__.from_input = _from_input  # type: ignore[attr-defined]


def _from_input(cls: type, values: Mapping[str, Any], context: InputContext) -> Any:
    defaults, fields = _fields(cls, context.config.name_converter)
    arguments = dict(defaults)
    for graphql_name, name, convert in fields:
        value = values.get(graphql_name, _MISSING)
        if value is not _MISSING:
            arguments[name] = value if convert is None or value is None else convert(value, context)
    return cls(**arguments)


@cache
def _fields(cls: Any, names: Any) -> tuple[dict[str, None], list[tuple[str, str, Convert | None]]]:
    """The fields without a default, and all with their GraphQL names and conversions of values that are not null."""
    definition = cls.__strawberry_definition__
    fields = definition.fields
    defaults: dict[str, None] = {
        one.python_name: None
        for one in fields
        if one.default_value is MISSING and one.default_factory is MISSING
    }
    return defaults, [
        (
            name := names.from_field(one),
            one.python_name,
            _conversion(one.resolve_type(type_definition=definition), name),
        )
        for one in fields
    ]


def _conversion(type_: Any, name: str) -> Convert | None:
    """The conversion of a type's values that are not null; None where they stay as they are."""
    if isinstance(type_, StrawberryMaybe | LazyType):
        whole: Any = type_
        return lambda value, context: context.convert(value, whole, name)
    if isinstance(type_, StrawberryList):
        item = _conversion(type_.of_type, name)
        if item is None:
            return lambda value, _: list(value)
        return lambda value, context: (
            value
            if isinstance(value, ConvertedList)
            else [None if one is None else item(one, context) for one in value]
        )
    if isinstance(type_, StrawberryOptional | StrawberryContainer):
        return _conversion(type_.of_type, name)
    definition = getattr(type_, "__strawberry_definition__", None)
    if getattr(definition, "is_input", False):
        return lambda value, context: _from_input(type_, value, context)
    return None


def given(input: Any, *names: str, **renamed: str) -> dict[str, Any]:
    """The fields that the client gave, null included; `metadata="labels"` renames one."""
    pairs = {**{name: name for name in names}, **renamed}
    values = {target: getattr(input, name) for name, target in pairs.items()}
    return {name: value for name, value in values.items() if value is not strawberry.UNSET}
