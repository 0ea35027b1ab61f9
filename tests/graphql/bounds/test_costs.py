"""Costs of operations count selections as the executor merges them."""

import random
from typing import Any

import pytest
from graphql import (
    FragmentDefinitionNode,
    OperationDefinitionNode,
    get_named_type,
    is_abstract_type,
    parse,
)
from graphql.execution.collect_fields import (
    FieldDetails,
    FragmentDetails,
    collect_fields,
    collect_subfields,
)
from graphql.execution.values import get_argument_values, get_variable_values

from app.core.errors import QueryTooComplex
from app.graphql.bounds.costs import Costs
from tests.graphql.compiled.documents import Document, Documents, Known
from tests.support import the_schema

SCHEMA = the_schema()._schema
METERS = "meters(first: 100) { nodes { %s customer { meters(first: 20) { nodes { %s } } } } }"
COLOCATED = f"""{{ ...A ...B ...C }}
    fragment A on Query {{ {METERS % ("id", "id")} }}
    fragment B on Query {{ {METERS % ("number", "number")} }}
    fragment C on Query {{ {METERS % ("status", "type")} }}"""
LISTS = ("attempts", "gaps", "importProfiles", "parts", "problems")
DELIVERIES = "... on WebhookEndpoint { deliveries(first: 30) { nodes { id } } }"


def costs_of(query: str) -> Costs:
    document = parse(query)
    [operation] = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    return Costs(SCHEMA, document, operation)


def events(*selections: str) -> str:
    return f"{{ events(first: 10) {{ nodes {{ {' '.join(selections)} }} }} }}"


def of(kind: str, size: int) -> str:
    return f"... on {kind}Event {{ customer {{ meters(first: {size}) {{ nodes {{ id }} }} }} }}"


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        # Merged selections count once.
        ("{ meters { nodes { id } } meters { nodes { number } } }", 20),
        ("{ a: meters { nodes { id } } b: meters { nodes { id } } }", 40),
        ("{ ...F ...F ... { ...F } } fragment F on Query { meters { nodes { id } } }", 20),
        (f"{{ {METERS % ('id', 'id')} }}", 2100),
        (COLOCATED, 2100),
        # Both are read, so both count.
        ("{ customers { nodes { meters { nodes { id } } } edges { node { meters { nodes { id } } } } } }", 820),
        # Of types that exclude each other the dearest counts, with the selections on all.
        (events("id", of("MeterCreated", 3), of("CustomerCreated", 5)), 60),
        (events("... on Node { id }", of("MeterCreated", 3), "... on Event { id }"), 40),
        ("{ node(id: 1) { ... on Customer { meters { nodes { id } } hostedConsents { nodes { id } } } } }", 40),
        (f"{{ node(id: 1) {{ ... on Customer {{ {METERS % ('id', 'id')} }} {DELIVERIES} }} }}", 2100),
        ('{ node(id: "1") { ... on Event { id } ... on Node { ... on Account { id } } } }', 0),
        # A list without pages.
        ("{ apiKeys { name } }", 100),
        # Readings are charged by the meter.
        ("{ meters { nodes { intervalData { total } } } }", 420),
        ("{ meters { nodes { a: coverage { missing } b: coverage { missing } } } }", 820),
        ("{ meters(first: 100) { nodes { coverage { complete gaps { from to } } } } }", 3100),
        ("{ eventTypes { name } __schema { types { name } } }", 10),
    ],
)  # fmt: skip
def test_costs(query: str, cost: int) -> None:
    assert costs_of(query).of({}) == cost


def test_what_depends_on_variables_is_counted_with_their_values() -> None:
    costs = costs_of(
        "query ($n: Int, $a: Boolean!, $id: ID!) { meters(first: $n) { nodes { ...M @include(if: $a) } } "
        "customer(id: $id) { id } } fragment M on Meter { customer { meters { nodes { id } } } }"
    )
    for _ in range(2):
        for size in (1, 100, None):
            for included in (True, False):
                expected = (size or 20) * (21 if included else 1)
                assert costs.of({"n": size, "a": included, "id": f"cus_{size}"}) == expected


class Reference:
    """Counts as the executor collects fields, without a cache."""

    def __init__(self, document: Document) -> None:
        parsed = parse(document.text)
        [self.operation] = [one for one in parsed.definitions if isinstance(one, OperationDefinitionNode)]
        self.fragments = {
            one.name.value: FragmentDetails(one)
            for one in parsed.definitions
            if isinstance(one, FragmentDefinitionNode)
        }
        given = self.operation.variable_definitions or ()
        self.variables: Any = get_variable_values(SCHEMA, given, document.variables)

    def cost(self) -> int:
        query: Any = SCHEMA.query_type
        fields = collect_fields(SCHEMA, self.fragments, self.variables, query, self.operation)
        return self._sum(query, fields.grouped_field_set)

    def _sum(self, type_: Any, grouped: Any) -> int:
        return sum(self._of(type_, details) for details in grouped.values())

    def _of(self, parent: Any, details: list[FieldDetails]) -> int:
        node = details[0].node
        field = parent.fields.get(node.name.value)
        if field is None or node.selection_set is None:
            return 0
        named: Any = get_named_type(field.type)
        kinds = SCHEMA.get_possible_types(named) if is_abstract_type(named) else [named]
        below = max(self._sum(kind, self._below(kind, details)) for kind in kinds)
        if named.name.endswith("Connection"):
            page = get_argument_values(field, node, self.variables)
            size = next((page[one] for one in ("first", "last") if page[one] is not None), 20)
            return min(max(size, 0), 100) * (1 + below)
        if named.name in ("IntervalData", "ReadingCoverage"):
            return 20 + below
        if node.name.value == "apiKeys":
            return 100 * (1 + below)
        return 10 * (1 + below) if node.name.value in LISTS else below

    def _below(self, kind: Any, details: list[FieldDetails]) -> Any:
        below = collect_subfields(SCHEMA, self.fragments, self.variables, self.operation, kind, details)
        return below.grouped_field_set


@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(20))
def test_random_documents_cost_what_the_executor_would_collect(turn: int, seed: str) -> None:
    kinds = ("Customer", "Meter", "Event", "HostedConsent", "WebhookEndpoint", "EmailSubscription")
    known = Known({kind: ["cus_1"] for kind in kinds}, {"Event": ["after"]}, ["1012345678901"])
    documents = Documents(SCHEMA, known, random.Random(seed))
    found = []
    for _ in range(300):
        document = documents.one()
        reference = Reference(document)
        # Some values do not have their type.
        if isinstance(reference.variables, list):
            continue
        found.append(reference.cost())
        assert costs_of(document.text).of(reference.variables.coerced) == found[-1], document
    assert len(found) > 200
    assert len(set(found)) > 50


def test_ways_that_multiply_are_counted_once_where_they_meet() -> None:
    spreads = [" ".join([f"...F{at + 1}"] * 10) for at in range(20)]
    fragments = [f"fragment F{at} on Query {{ {one} }}" for at, one in enumerate(spreads)]
    query = " ".join(["{ ...F0 }", *fragments, "fragment F20 on Query { eventTypes { name } }"])
    assert costs_of(query).of({}) == 10
    for at in range(30):
        twice = "".join(f"{alias}: hostedConsent {{ customer {{ ...F{at + 1} }} }} " for alias in "ab")
        fragments[at:] = [f"fragment F{at} on Customer {{ meters(first: 1) {{ nodes {{ {twice} }} }} }}"]
    query = " ".join(["{ customer(id: 1) { ...F0 } }", *fragments, "fragment F30 on Customer { id }"])
    assert costs_of(query).of({}) == 2**30 - 1


def crossing(levels: int) -> str:
    """The fragments that merge at a level differ with each path to it."""
    fragments = []
    for at in range(levels):
        for number in range(12):
            fields = " ".join(
                f"{alias}: hostedConsent {{ customer {{ hostedConsents(first: 1) {{ nodes {{ meters(first: 1) "
                f"{{ nodes {{ ...F{at + 1}_{(number * step + shift) % 12} }} }} }} }} }} }}"
                for alias, step, shift in (("a", 1, 1), ("b", 5, 0), ("c", 7, 3))
            )
            fragments.append(f"fragment F{at}_{number} on Meter {{ ...F{at + 1}_{number} {fields} }}")
    fragments += [f"fragment F{levels}_{number} on Meter {{ id }}" for number in range(12)]
    return " ".join(["{ meter(id: 1) { ...F0_0 } }", *fragments])


def test_a_walk_that_would_take_too_long_ends() -> None:
    with pytest.raises(QueryTooComplex, match="too many fields"):
        costs_of(crossing(16)).of({})


def test_a_walk_that_would_go_too_deep_ends() -> None:
    below = "hostedConsent { customer { meters { nodes { ...F%d } } } }"
    fragments = [f"fragment F{at} on Meter {{ {below % (at + 1)} }}" for at in range(200)]
    query = " ".join(["{ meter(id: 1) { ...F0 } }", *fragments, "fragment F200 on Meter { id }"])
    with pytest.raises(QueryTooComplex, match="too deeply"):
        costs_of(query).of({})
