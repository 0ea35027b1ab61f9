"""Random valid documents over the schema: aliases, fragments, directives, variables, every argument of connections."""

import random
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    is_list_type,
)

T = TypeVar("T")

ROOTS = (
    *("meters", "customers", "hostedConsents", "events", "deliveries", "users") * 3,
    *("webhookEndpoints", "emailSubscriptions"),
    *("node", "delivery") * 3,
    *(
        "meter",
        "customer",
        "hostedConsent",
        "user",
        "event",
        "webhookEndpoint",
        "emailSubscription",
        "replay",
    ),
    *("hostedConsentEvidence", "intervalData", "viewer", "apiKeys"),
)
DEEPEST = 5
# Where a field fails, graphql-core drops the coroutines of the fields beside it without awaiting them.
DROPPED = tuple(
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "coroutine .* was never awaited:RuntimeWarning",
        ".*was never awaited:pytest.PytestUnraisableExceptionWarning",
        "Exception ignored in. <coroutine:pytest.PytestUnraisableExceptionWarning",
    )
)
# Some are refused, with an error that nulls the meter and everything that needs it.
PERIODS: tuple[dict[str, Any], ...] = (
    *({}, {"lookback": "1d"}, {"lookback": "1w", "granularity": "DAY"}) * 3,
    {"lookback": "2x"},
    {"from": "2020-01-02T00:00:00.000Z", "to": "2020-01-01T00:00:00.000Z"},
)
# The kinds of the ids in fields of filters.
NAMED_BY = {
    "customerIds": "Customer",
    "meterIds": "Meter",
    "eventId": "Event",
    "webhookEndpointId": "WebhookEndpoint",
    "emailSubscriptionId": "EmailSubscription",
}


def dropping(test: T) -> T:
    """Marks a test whose documents may have fields that fail."""
    for mark in DROPPED:
        test = mark(test)
    return test


@dataclass
class Known:
    """Values for arguments: existing ids and cursors by their kinds, and numbers of meters."""

    ids: dict[str, list[str]]
    cursors: dict[str, list[str]]
    numbers: list[str]


@dataclass
class Document:
    text: str
    variables: dict[str, Any]


@dataclass
class Documents:
    """A stream of documents, determined by the seed."""

    schema: GraphQLSchema
    known: Known
    chance: random.Random
    # The share of choices that include fields with resolvers of their own.
    own: float = 0.3
    _aliases: int = 0
    _variables: dict[str, tuple[str, Any]] = field(default_factory=dict)
    _fragments: list[str] = field(default_factory=list)

    def one(self) -> Document:
        self._begin()
        query = self.schema.query_type
        assert query is not None
        fields = [
            self._field(query, name, 0) for name in self.chance.sample(ROOTS, self.chance.randint(1, 3))
        ]
        return self._document("query", " ".join(fields))

    def subscription(self) -> Document:
        """A subscription to `events`."""
        self._begin()
        selection = self._selection(self.schema.type_map["Event"], 1)
        return self._document("subscription", f"{self._alias()}: events {selection}")

    def _begin(self) -> None:
        self._aliases, self._variables, self._fragments = 0, {}, []

    def _document(self, kind: str, body: str) -> Document:
        names = ", ".join(f"${name}: {type_}" for name, (type_, _) in self._variables.items())
        text = " ".join([f"{kind}{f'({names})' if names else ''} {{ {body} }}", *self._fragments])
        return Document(text, {name: value for name, (_, value) in self._variables.items()})

    def _field(self, parent: Any, name: str, depth: int) -> str:
        definition = parent.fields[name]
        named = get_named_type(definition.type)
        directive = self._directive()
        if is_leaf_type(named):
            # The types of an interface have fields of one name and several types.
            clashes = name in ("status", "type", "description") and parent.name != "Event"
            alias = f"{self._alias()}: " if clashes or self.chance.random() < 0.1 else ""
            return f"{alias}{name}{directive}"
        arguments = self._arguments(parent, name, definition.args)
        text = f"{self._alias()}: {name}{arguments}{directive}"
        fields = f"{text} {self._selection(named, depth + 1)}"
        # The same field again: its selection is merged into the first one.
        return (
            f"{fields} {text} {self._selection(named, depth + 1)}" if self.chance.random() < 0.1 else fields
        )

    def _selection(self, type_: Any, depth: int) -> str:
        parts = []
        for name in self._names(type_, depth):
            part = self._field(type_, name, depth)
            turn = self.chance.random()
            if turn < 0.1:
                part = f"...{self._condition(type_)}{self._directive()} {{ {part} }}"
            elif turn < 0.15:
                self._fragments.append(f"fragment F{len(self._fragments)} on {type_.name} {{ {part} }}")
                part = f"...F{len(self._fragments) - 1}{self._directive()}"
            parts.append(part)
        if self.chance.random() < 0.15:
            parts.append("__typename")
        if isinstance(type_, GraphQLInterfaceType):
            behind = self.schema.get_implementations(type_)
            every = [*behind.interfaces, *behind.objects]
            # A few types in full test more than the same share of many.
            kinds = self.chance.sample(every, self.chance.randint(0, min(len(every), 4)))
            parts += [f"... on {one.name} {self._selection(one, depth + 1)}" for one in kinds]
        self.chance.shuffle(parts)
        return f"{{ {' '.join(parts)} }}"

    def _names(self, type_: Any, depth: int) -> list[str]:
        fields = type_.fields
        leaves = [name for name, one in fields.items() if is_leaf_type(get_named_type(one.type))]
        others = [name for name in fields if name not in leaves]
        if type_.name.endswith("Connection"):
            return self.chance.choice(
                [["nodes"], ["nodes"], ["edges"], ["nodes", "pageInfo"], ["pageInfo", "edges"]]
            )
        if type_.name.endswith("Edge"):
            return self.chance.choice([["node"], ["cursor"], ["cursor", "node"], ["node", "cursor"]])
        chosen = self.chance.sample(leaves, min(len(leaves), self.chance.randint(1, 5)))
        if depth < DEEPEST and others:
            # Fields with resolvers of their own are chosen less often, or documents would have little else.
            rare = {"intervalData", "stats"}
            likely = [one for one in others if one not in rare or self.chance.random() < self.own]
            chosen += self.chance.sample(likely, min(len(likely), self.chance.randint(0, 2)))
        return chosen

    def _arguments(self, parent: Any, name: str, arguments: dict[str, GraphQLArgument]) -> str:
        given: dict[str, Any] = {}
        kind = get_named_type(parent.fields[name].type).name.removesuffix("Connection")
        if "first" in arguments:
            given |= self._page(kind)
        if "id" in arguments:
            given["id"] = self._id(kind)
        if "filter" in arguments and self.chance.random() < 0.35:
            given["filter"] = self._input(get_named_type(arguments["filter"].type))
        for name, owner in (("meterId", "Meter"), ("hostedConsentId", "HostedConsent")):
            if name in arguments:
                given[name] = self._id(owner)
        if "granularity" in arguments:
            given |= self.chance.choice(PERIODS)
        return self._written(given, arguments) if given else ""

    def _page(self, kind: str) -> dict[str, Any]:
        turn = self.chance.random()
        given: dict[str, Any] = {}
        if turn < 0.6:
            given["first"] = self.chance.choice([1, 2, 3, 5, 100])
        elif turn < 0.8:
            given["last"] = self.chance.choice([1, 2, 4])
        elif turn < 0.84:
            given["first"] = self.chance.choice([0, 101, -1])
        elif turn < 0.87:
            given |= {"first": 1, "last": 1}
        elif turn < 0.9:
            given["first"] = None
        for name in ("after", "before"):
            if self.chance.random() < 0.2:
                cursors = self.known.cursors.get(kind, [])
                odd = [None, "nonsense", *self.known.cursors["Event"][:1]]
                pool = cursors if cursors and self.chance.random() < 0.8 else odd
                given[name] = self.chance.choice(pool)
        return given

    def _id(self, kind: str) -> str:
        every = [one for ids in self.known.ids.values() for one in ids]
        pool = (
            self.known.ids.get(kind, every) if self.chance.random() < 0.9 else [*every, "nonsense", "mtr_1"]
        )
        return self.chance.choice(pool)

    def _input(self, type_: Any) -> dict[str, Any] | None:
        assert isinstance(type_, GraphQLInputObjectType)
        names = self.chance.sample(list(type_.fields), self.chance.randint(0, 2))
        return {name: self._value(name, type_.fields[name].type) for name in names}

    def _value(self, name: str, kind: Any) -> Any:
        if self.chance.random() < 0.1:
            return None
        if is_list_type(kind):
            values = [self._value(name, kind.of_type.of_type) for _ in range(self.chance.randint(0, 3))]
            return [one for one in values if one is not None]
        named = get_named_type(kind)
        if isinstance(named, GraphQLEnumType):
            return self.chance.choice(list(named.values))
        if named.name == "Boolean":
            return self.chance.random() < 0.5
        if named.name == "Metadata":
            return self.chance.choice([{}, {"site": "a"}, {"site": "b", 'x"y': "1"}])
        if name == "numbers":
            return self.chance.choice(self.known.numbers)
        if name == "emails":
            return self.chance.choice(["C1@example.com", "c2@example.com", "nobody"])
        if named.name == "DateTime":
            return self.chance.choice(["2020-01-01T00:00:00.000Z", "2120-01-01T00:00:00Z", "yesterday"])
        return self._id(NAMED_BY[name])

    def _written(self, given: dict[str, Any], arguments: dict[str, GraphQLArgument]) -> str:
        parts = []
        for name, value in given.items():
            kind = arguments[name].type
            if isinstance(value, dict) or self.chance.random() < 0.3:
                variable = f"v{len(self._variables)}"
                self._variables[variable] = (str(kind), value)
                parts.append(f"{name}: ${variable}")
            elif isinstance(value, str) and not isinstance(get_named_type(kind), GraphQLEnumType):
                parts.append(f'{name}: "{value}"')
            else:
                parts.append(f"{name}: {'null' if value is None else value}")
        return f"({', '.join(parts)})"

    def _directive(self) -> str:
        if self.chance.random() > 0.12:
            return ""
        name, value = self.chance.choice(["include", "skip"]), self.chance.random() < 0.5
        if self.chance.random() < 0.5:
            return f" @{name}(if: {str(value).lower()})"
        variable = f"v{len(self._variables)}"
        self._variables[variable] = ("Boolean!", value)
        return f" @{name}(if: ${variable})"

    def _condition(self, type_: Any) -> str:
        return self.chance.choice(["", f" on {type_.name}"])

    def _alias(self) -> str:
        self._aliases += 1
        return f"a{self._aliases}"
