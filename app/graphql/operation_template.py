"""Templates of operations: all documents that differ in their literals only are prepared once.

In a template a variable stands in place of each argument that has literals. The literals of another document of this
form are coerced by graphql-core as they would be in that document, so that its response is the same. Where one is not
of its argument's type, the document itself is validated, and its errors are those of the document.

A field's argument becomes a variable only if no variable stands in it. Documents with literals anywhere else, such as
in defaults of variables, in directives or beside variables, have no template.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FloatValueNode,
    GraphQLError,
    GraphQLSchema,
    IntValueNode,
    ListValueNode,
    NameNode,
    ObjectFieldNode,
    ObjectValueNode,
    Source,
    StringValueNode,
    TypeInfo,
    TypeInfoVisitor,
    Undefined,
    ValueNode,
    VariableNode,
    Visitor,
    get_location,
    visit,
)
from graphql.execution.values import VariableValues
from graphql.language import SKIP
from graphql.utilities import coerce_input_literal

from app.graphql.literals import Literals

_NO_VARIABLES: Final = VariableValues({}, {})
_LITERALS: Final = (StringValueNode, IntValueNode, FloatValueNode)

# Makes a literal's node of the values of a document's literals.
Build = Callable[[list[str]], ValueNode]


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of the template: its variable, its type, and the node of its value."""

    variable: str
    type: Any
    build: Build


class Parameters:
    """The literals of a document, coerced, for the variables of a template that was made of another document."""

    __slots__ = ("_literals", "_template", "values")

    def __init__(self, values: dict[str, Any], template: Literals, literals: Literals) -> None:
        self.values = values
        self._template = template
        self._literals = literals

    @property
    def text(self) -> str:
        """The document as it was sent."""
        return self._literals.text

    def locate(self, errors: Iterable[GraphQLError]) -> None:
        """Gives errors of the template their locations in the document."""
        source = Source(self.text)
        for error in errors:
            if error.positions:
                error.locations = [get_location(source, self._moved(one)) for one in error.positions]

    def _moved(self, position: int) -> int:
        """The offset in the document of an offset in the template, which is never within a literal."""
        before = after = 0
        for start, there in zip(self._template.starts, self._literals.starts, strict=True):
            if start > position:
                break
            before, after = start, there
        return after + position - before


class Template:
    """The document of a template, and how its variables get their values."""

    def __init__(self, document: DocumentNode, arguments: list[Argument], literals: Literals) -> None:
        self.document = document
        self._arguments = arguments
        self._literals = literals

    @classmethod
    def of(cls, schema: GraphQLSchema, document: DocumentNode, literals: Literals) -> "Template | None":
        """The template of a valid document; None if it has literals that cannot be variables."""
        info = TypeInfo(schema)
        arguments = _Arguments(info, literals)
        made = visit(document, TypeInfoVisitor(info, arguments))
        return cls(made, arguments.found, literals) if arguments.places == literals.places else None

    def parameters(self, literals: Literals) -> Parameters | None:
        """The variables of a document of this form; None if the document is not valid."""
        coerced: dict[str, Any] = {}
        for argument in self._arguments:
            value = coerce_input_literal(argument.build(literals.values), argument.type, _NO_VARIABLES)
            if value is Undefined or value is None:
                return None
            coerced[argument.variable] = value
        return Parameters(coerced, self._literals, literals)


class _Arguments(Visitor):
    """Replaces fields' arguments that have literals by variables."""

    def __init__(self, info: TypeInfo, literals: Literals) -> None:
        super().__init__()
        self.found: list[Argument] = []
        # The offsets of the replaced literals.
        self.places: list[int] = []
        self._info = info
        self._numbers = {place: number for number, place in enumerate(literals.places)}

    def enter_field(self, node: FieldNode, *_: Any) -> Any:
        field = self._info.get_field_def()
        if field is None or not node.arguments:
            return None
        made = tuple([self._argument(field.args[one.name.value].type, one) for one in node.arguments])
        return replace(node, arguments=made)

    def enter_argument(self, _node: ArgumentNode, *_: Any) -> Any:
        return SKIP

    def _argument(self, type_: Any, node: ArgumentNode) -> ArgumentNode:
        nodes = list(_leaves(node.value))
        literals = [one for one in nodes if isinstance(one, _LITERALS)]
        if not literals or any(isinstance(one, VariableNode) for one in nodes):
            return node
        places = [one.loc.start for one in literals if one.loc is not None]
        if not self._numbers.keys() >= set(places):
            return node
        self.places += places
        # No document can have a variable of such a name.
        name = f"literal {len(self.found)}"
        self.found.append(Argument(name, type_, self._build(node.value)))
        return replace(node, value=VariableNode(name=NameNode(value=name), loc=node.value.loc))

    def _build(self, node: ValueNode) -> Build:
        if isinstance(node, _LITERALS):
            kind, number = type(node), self._numbers[node.loc.start if node.loc else -1]
            return lambda values: kind(value=values[number])
        if isinstance(node, ListValueNode):
            items = [self._build(one) for one in node.values]
            return lambda values: ListValueNode(values=tuple([build(values) for build in items]))
        if isinstance(node, ObjectValueNode):
            fields = [(one.name, self._build(one.value)) for one in node.fields]
            return lambda values: ObjectValueNode(
                fields=tuple([ObjectFieldNode(name=name, value=build(values)) for name, build in fields])
            )
        return lambda _: node


def _leaves(node: ValueNode) -> Iterable[ValueNode]:
    """The values in a value that hold no others."""
    if isinstance(node, ListValueNode):
        for one in node.values:
            yield from _leaves(one)
    elif isinstance(node, ObjectValueNode):
        for field in node.fields:
            yield from _leaves(field.value)
    else:
        yield node
