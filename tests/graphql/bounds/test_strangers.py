"""Requests without credentials are bounded, and mostly refused before validation."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from graphql import execute_sync, get_introspection_query, parse

from app.core.errors import QueryTooComplex
from app.events.catalogue import event_names
from app.graphql.bounds.introspection import most_values
from app.graphql.bounds.limits import STRANGERS, STRANGERS_BODY
from app.graphql.failures import RequestErrors
from tests.graphql.http.test_view import client, code, post
from tests.support import World, the_schema

OPTIONS = (
    "descriptions",
    "specified_by_url",
    "directive_is_repeatable",
    "schema_description",
    "input_value_deprecation",
    "one_of",
    "experimental_directive_deprecation",
)
README = Path(__file__).parents[3] / "README.md"
LARGER = " Requests with an API key may be larger."
ON_TYPE = "fragment A on __Type { possibleTypes { name } interfaces { name } ofType { name } }"
# Validation would report it.
UNKNOWN = "unknownField"


async def refused(world: World, query: str, **variables: Any) -> tuple[str, dict[str, Any]]:
    """Message and extensions of the only error of a stranger's request that is too complex."""
    response = await world.ask(query, variables)
    assert list(response) == ["errors"]
    [error] = response["errors"]
    extensions: dict[str, Any] = error["extensions"]
    assert extensions.pop("code") == QueryTooComplex.code
    return error["message"], extensions


def of_core(query: str) -> Any:
    """The data that graphql-core itself returns."""
    result = execute_sync(the_schema()._schema, parse(query))
    assert result.errors is None
    return result.data


@pytest.mark.parametrize("depth", [7, 9])
async def test_every_variant_of_the_standard_introspection_is_answered_as_graphql_core_does(
    world: World, depth: int
) -> None:
    variants = [dict.fromkeys(OPTIONS, True), dict.fromkeys(OPTIONS, False)]
    variants += [{**variants[1], option: True} for option in OPTIONS]
    for variant in variants:
        query = get_introspection_query(**variant, type_depth=depth)  # type: ignore[arg-type]
        assert await world.data(query) == of_core(query)


async def test_the_standard_introspection_is_answered_from_memory(world: World) -> None:
    query = get_introspection_query()
    first = (await world.execute(query))["data"]
    assert (await world.execute(query))["data"] is first
    account = await world.account()
    assert (await world.execute(query, key=account.key))["data"] is first
    # Another text is another document with an equal response.
    again = (await world.execute(query + " "))["data"]
    assert again == first
    assert again is not first


@pytest.mark.parametrize(
    "query",
    [
        '{ __type(name: "Meter") { kind fields(includeDeprecated: true) { name args { defaultValue } } } }',
        '{ a: __type(name: "Meter") { name } b: __type(name: "None") { name } __typename }',
        "{ __schema { types { ...A ... on __Type { kind } } } __schema { types { name } } } " + ON_TYPE,
        "{ __schema { types { name @skip(if: true) kind } directives { locations } } }",
        '{ __type(name: "Meter") { fields { type { ofType { fields { name } } } } } }',
    ],
)
async def test_other_introspection_is_answered_as_graphql_core_does(world: World, query: str) -> None:
    assert await world.data(query) == of_core(query)


async def test_introspection_with_variables_is_answered_by_their_values(world: World) -> None:
    query = "query ($name: String!) { __type(name: $name) { name } }"
    for name in ("Meter", "Customer"):
        assert await world.data(query, {"name": name}) == {"__type": {"name": name}}


@pytest.mark.parametrize(
    "selection",
    [
        "a: __schema { queryType { name } } b: __schema { queryType { name } }",
        "__schema { queryType { name } } ...F",
        "__schema { queryType { name } } ... on Query { b: __schema { queryType { name } } }",
    ],
)
async def test_an_operation_selects_the_schema_once(world: World, selection: str) -> None:
    fragment = "fragment F on Query { b: __schema { queryType { name } } }" if "...F" in selection else ""
    message = f"An operation may select __schema once; merge its selections.{LARGER}"
    assert await refused(world, f"{{ {selection} }} {fragment}") == (message, {})
    account = await world.account()
    [error] = (await world.ask(f"{{ {selection} }} {fragment}", key=account.key))["errors"]
    assert error["extensions"] == {"code": "QUERY_TOO_COMPLEX"}


@pytest.mark.parametrize("lists", [*itertools.permutations(["fields", "interfaces", "possibleTypes"])])
async def test_lists_of_types_are_not_nested_three_times(world: World, lists: tuple[str, ...]) -> None:
    inner = {"fields": "fields { type { %s } }"}
    query = "name"
    for one in lists:
        query = inner.get(one, f"{one} {{ %s }}") % query
    [error] = (await world.ask(f"{{ __schema {{ types {{ {query} }} }} }}"))["errors"]
    assert error["message"] == "Maximum introspection depth exceeded"
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}


async def test_introspection_brings_back_so_many_values_at_most(world: World) -> None:
    fields = "fields { type { fields { name description type { name kind } args { name type { name } } } } }"
    query = f"{{ __schema {{ {' '.join(f'a{n}: types {{ {fields} }}' for n in range(8))} }} }}"
    response = await world.ask(query)
    assert response["data"] is None
    [error] = response["errors"]
    assert error["extensions"] == {
        "code": "QUERY_TOO_COMPLEX",
        "limit": int(most_values(world.engine.schema)),
    }


@pytest.mark.parametrize(
    ("query", "message", "extensions"),
    [
        (
            "{ " + "eventTypes { name } " * 60 + UNKNOWN + " }",
            "The document selects too many fields; ask in several requests.",
            {},
        ),
        (
            "{ " + "__typename " * 290 + UNKNOWN + " }",
            "The document selects too many fields; ask in several requests.",
            {},
        ),
        (
            "{ " + "... { __typename } " * 70 + UNKNOWN + " }",
            "The document selects too many fields; ask in several requests.",
            {},
        ),
        (
            "{ " + "__typename " * 299 + UNKNOWN + " }",
            "The document has more than 300 tokens; ask in several requests.",
            {"limit": 300},
        ),
        (
            "{ " + "".join(f"a{n}: {UNKNOWN} " for n in range(11)) + "}",
            "The document has 11 aliases; at most 10 are allowed. Ask in several requests.",
            {"aliases": 11, "limit": 10},
        ),
        (
            "".join(f"query Q{n} {{ {UNKNOWN} }} " for n in range(6)),
            "The document has 6 operations; at most 5 are allowed. Send them apart.",
            {"operations": 6, "limit": 5},
        ),
        (
            f"{{ {UNKNOWN} }} #".ljust(15_001, "x"),
            "The document has 15001 characters; at most 15000 are allowed. Send long values as variables.",
            {"characters": 15_001, "limit": 15_000},
        ),
        (
            "{ " + "a { " * 13 + UNKNOWN + " }" * 14,
            "The document is 14 fields deep; at most 12 are allowed: ask in parts.",
            {"depth": 14, "limit": 12},
        ),
    ],
)
async def test_documents_are_refused_before_they_are_validated(
    world: World, query: str, message: str, extensions: dict[str, Any]
) -> None:
    assert await refused(world, query) == (message + LARGER, extensions)


async def test_a_strangers_cost_is_lower(world: World) -> None:
    account = await world.account()
    consents = " ".join(f"a{n}: eventTypes {{ name }}" for n in range(10))
    await world.data(f"{{ {consents} }}")
    assert STRANGERS.cost == 500
    below = "meters(first: 100) { nodes { customer { meters { nodes { id } } } } }"
    deep = f'{{ hostedConsentByToken(token: "x") {{ customer {{ {below} }} }} }}'
    assert (await refused(world, deep))[1] == {"cost": 2100, "limit": 500}
    assert await world.data(deep, key=account.key) == {"hostedConsentByToken": None}


async def test_validation_ends_after_five_errors(world: World) -> None:
    response = await world.ask("{ " + "".join(f"unknown{n} " for n in range(100)) + "}")
    assert [error["message"] for error in response["errors"]] == [
        *(f"Cannot query field 'unknown{n}' on type 'Query'." for n in range(5)),
        "Too many validation errors, error limit reached. Validation aborted.",
    ]


def test_the_readme_tells_the_limits_of_strangers() -> None:
    sentence = (
        f"Requests without a key may have {STRANGERS.tokens} tokens, {STRANGERS.aliases} aliases, "
        f"{STRANGERS.operations} operations, a cost of {STRANGERS.cost} and {STRANGERS_BODY // 1024} KiB"
    )
    assert sentence in " ".join(README.read_text().split())


async def test_strangers_send_a_smaller_body(world: World) -> None:
    account = await world.account()
    body = b'{"query": "{ __typename }", "variables": {}}'
    assert (await post(world, body.ljust(STRANGERS_BODY))).json() == {"data": {"__typename": "Query"}}
    response = await post(world, body.ljust(STRANGERS_BODY + 1))
    assert (response.status_code, code(response)) == (413, "BAD_USER_INPUT")
    assert (await post(world, body.ljust(STRANGERS_BODY + 1), account.key)).status_code == 200


@pytest.mark.parametrize("kind", ["fields", "fragments", "operations"])
async def test_nothing_within_the_tokens_of_an_account_is_compared_each_with_each(
    world: World, kind: str
) -> None:
    account = await world.account()
    query = {
        "fields": "{ " + "customers { nodes { id } } " * 240 + UNKNOWN + " }",
        "fragments": "{ " + "".join(f"...F{n} " for n in range(180)) + "} "
        + "".join(f"fragment F{n} on Query {{ {UNKNOWN} }} " for n in range(180)),
        "operations": "".join(f"query Q{n} {{ {UNKNOWN} }} " for n in range(21)),
    }[kind]  # fmt: skip
    [error] = (await world.ask(query, key=account.key))["errors"]
    assert error["extensions"]["code"] == "QUERY_TOO_COMPLEX"


async def test_so_many_parameters_of_an_address_count(world: World) -> None:
    async with client(world) as opened:
        for others, status in ((49, 200), (50, 400)):
            response = await opened.get(f"/graphql?{'a&' * others}query={{__typename}}")
            assert response.status_code == status


async def test_the_catalogue_is_made_once(world: World) -> None:
    query = "{ eventTypes { schema } }"
    first, second = [(await world.execute(query))["data"]["eventTypes"] for _ in range(2)]
    assert len(first) == len(event_names())
    assert all(one["schema"] is other["schema"] for one, other in zip(first, second, strict=True))


CLOSED = "customers { nodes { id } } "


@pytest.mark.parametrize(
    "query",
    [
        "{ " + "".join(f"a{n}: {CLOSED}" for n in range(11)) + UNKNOWN + " }",
        "{ " + CLOSED * 50 + UNKNOWN + " }",
        "{ " + "__typename " * 300 + "...F } fragment F on Query { ... { " + CLOSED + UNKNOWN + " } }",
        "mutation { " + "__typename " * 300 + "deleteMeter }",
        "subscription { " + "__typename " * 300 + "events { id } }",
        "".join(f"query Q{n} {{ {CLOSED}{UNKNOWN} }} " for n in range(6)),
        f"{{ {CLOSED}{UNKNOWN} }} #".ljust(15_001, "x"),
    ],
)
async def test_what_needs_a_key_and_fits_an_account_is_told_to_send_one(world: World, query: str) -> None:
    name = "Q3" if "Q3" in query else None
    with pytest.raises(RequestErrors) as caught:
        world.engine.prepare(query, name, authenticated=False)
    assert (caught.value.status, len(caught.value.errors)) == (401, 1)
    assert caught.value.errors[0] == {
        "message": "Send an API key in x-api-key or Authorization: Bearer to ask for this.",
        "extensions": {"code": "UNAUTHENTICATED"},
    }


@pytest.mark.parametrize(
    "query",
    [
        # Open.
        "{ " + "".join(f"a{n}: eventTypes {{ name }} " for n in range(11)) + "}",
        # Too much for an account as well.
        "{ " + "".join(f"a{n}: {CLOSED}" for n in range(31)) + "}",
        "{ " + CLOSED * 400 + "}",
        # It would take long to find out.
        "{ " + CLOSED * 130 + "}",
        "{ customers " + "{ a " * 12 + "}" * 13,
        # The operation is ambiguous, or a fragment is missing.
        "".join(f"query Q{n} {{ {CLOSED}}} " for n in range(6)),
        "{ " + "__typename " * 300 + "...Missing }",
    ],
)
async def test_what_is_too_much_and_no_key_would_help_is_told_so(world: World, query: str) -> None:
    await refused(world, query)


@pytest.mark.parametrize("field", ["intervalData { total }", "coverage { missing }"])
async def test_readings_are_an_error_each_to_a_stranger(world: World, field: str) -> None:
    """They are never read, so they cost no more than the meters."""
    readings = f"meters(first: 100) {{ nodes {{ {field} }} }}"
    below = f"customer {{ meters(first: 3) {{ nodes {{ customer {{ {readings} }} }} }} }}"
    query = '{ hostedConsentByToken(token: "x") { %s } }'
    assert await world.data(query % readings) == {"hostedConsentByToken": None}
    assert (await refused(world, query % below))[1] == {"cost": 603, "limit": 500}
