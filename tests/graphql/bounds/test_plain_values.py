"""Texts that cannot be stored and integers that cannot be read are refused."""

import pytest

from tests.accounts.state import mutation, unchanged
from tests.meters.asking import make_customer
from tests.support import World

CREATE = mutation("createCustomer", "customer { id }")


@pytest.mark.parametrize("wrong", ["a\x00b", "\x00", "a\ud800", "\udc00"])
async def test_texts_that_no_database_stores_are_refused(world: World, wrong: str) -> None:
    account = await world.account()
    escaped = "".join(f"\\u{ord(one):04x}" if not "a" <= one <= "z" else one for one in wrong)
    literal = (
        f'mutation {{ createCustomer(input: {{name: "{escaped}", email: "a@b.c"}}) {{ customer {{ id }} }} }}'
    )
    async with unchanged(world):
        for query, variables in (
            (CREATE, {"input": {"name": wrong, "email": "a@example.com"}}),
            (CREATE, {"input": {"name": "A", "email": "a@example.com", "metadata": {wrong: "a"}}}),
            ("query ($id: ID!) { node(id: $id) { id } }", {"id": wrong}),
            ("query ($f: CustomerFilter) { customers(filter: $f) { nodes { id } } }", {"f": {"emails": [wrong]}}),
            (literal, {}),
        ):  # fmt: skip
            response = await world.ask(query, variables, key=account.key)
            assert {one["extensions"]["code"] for one in response["errors"]} == {"BAD_USER_INPUT"}
            assert "data" not in response


async def test_texts_beyond_the_basic_plane_are_fine(world: World) -> None:
    account = await world.account()
    await make_customer(world, account, name="Ada 🦉 \\u0000")
    nodes = (await world.data("{ customers { nodes { name } } }", key=account.key))["customers"]["nodes"]
    assert nodes == [{"name": "Ada 🦉 \\u0000"}]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("{ customers(first: %s) { nodes { id } } }", ["first"]),
        ("{ customers(last: %s) { nodes { id } } }", ["last"]),
        ("{ customer(id: %s) { id } }", ["id"]),
        ("{ events(filter: {sequenceFrom: %s}) { nodes { id } } }", ["filter", "sequenceFrom"]),
        ("{ meters(filter: {metadata: {a: %s}}) { nodes { id } } }", ["filter", "metadata", "a"]),
        ("{ events(filter: {occurredFrom: %s}) { nodes { id } } }", ["filter", "occurredFrom"]),
        ("query ($first: Int = %s) { customers(first: $first) { nodes { id } } }", None),
        (
            (
                'mutation { createWebhookEndpoint(input: {url: "https://x.example", headers: {a: [%s]}}) '
                "{ userErrors { code } } }"
            ),
            ["headers", "a", "0"],
        ),
    ],
)
@pytest.mark.parametrize("sign", ["", "-"])
async def test_an_endless_integer_is_refused_in_our_words(
    small_world: World, query: str, field: list[str] | None, sign: str
) -> None:
    account = await small_world.account()
    response = await small_world.ask(query % (sign + "9" * 5000), key=account.key)
    (error,) = response["errors"]
    assert error["message"] == "A number with 5000 digits is out of range; send a smaller one."
    assert error["extensions"] == {"code": "BAD_USER_INPUT", **({"field": field} if field else {})}
    assert error["locations"] == [{"line": 1, "column": query.index("%s") + 1}]
