"""Lists of input objects that are converted as a whole, past graphql-core and Strawberry.

They take a few microseconds for each value of each object. An input class with a class method `converted_list` is given
the raw list of a variable, and gives what stands for the list in the input of the mutation; None leaves the list to
graphql-core, which finds every fault in it. So it accepts nothing that graphql-core would refuse.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from graphql import (
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLSchema,
    OperationDefinitionNode,
    get_nullable_type,
    is_list_type,
    type_from_ast,
)

Path = tuple[str, str | None]
"""A variable, and the field of its input object that has the list; None where the variable has it."""


class ConvertedList(ABC):
    """The inputs of a list, in a form that its mutation knows."""

    @abstractmethod
    def plain(self) -> list[dict[str, Any]]:
        """The fields of each input, by which a request is compared with another one."""


Convert = Callable[[list[Any]], ConvertedList | None]


class ListVariables:
    """The lists among an operation's variables that may be converted as a whole."""

    def __init__(self, conversions: Mapping[Path, Convert]) -> None:
        self._conversions = conversions

    @classmethod
    def of(cls, schema: GraphQLSchema, operation: OperationDefinitionNode) -> "ListVariables | None":
        conversions: dict[Path, Convert] = {}
        for definition in operation.variable_definitions or ():
            name = definition.variable.name.value
            declared: Any = type_from_ast(schema, definition.type)
            type_ = get_nullable_type(declared)
            types: dict[str | None, Any] = {None: type_}
            if isinstance(type_, GraphQLInputObjectType):
                types = {field: one.type for field, one in type_.fields.items()}
            for field, one in types.items():
                if (convert := _conversion(one)) is not None:
                    conversions[name, field] = convert
        return cls(conversions) if conversions else None

    def convert(self, variables: Mapping[str, Any]) -> "Converted":
        rest = dict(variables)
        lists: dict[Path, ConvertedList] = {}
        for (name, field), convert in self._conversions.items():
            holder = rest.get(name)
            found = holder.get(field) if field is not None and isinstance(holder, dict) else holder
            converted = convert(found) if isinstance(found, list) and found else None
            if converted is not None:
                lists[name, field] = converted
                rest[name] = [] if field is None else {**rest[name], field: []}
        return Converted(rest, lists)


class Converted(NamedTuple):
    """Variables with empty lists in place of those that were converted."""

    rest: dict[str, Any]
    lists: dict[Path, ConvertedList]

    def put_into(self, coerced: dict[str, Any]) -> None:
        """Puts the lists into the values that graphql-core made of the other variables."""
        for (name, field), converted in self.lists.items():
            if field is None:
                coerced[name] = converted
            else:
                coerced[name][field] = converted


def _conversion(type_: GraphQLInputType) -> Convert | None:
    list_type: Any = get_nullable_type(type_)
    if not is_list_type(list_type):
        return None
    definition = getattr(get_nullable_type(list_type.of_type), "extensions", {}).get("strawberry-definition")
    convert: Convert | None = getattr(getattr(definition, "origin", None), "converted_list", None)
    return convert
