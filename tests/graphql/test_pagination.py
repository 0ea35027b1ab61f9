"""Connections: pages in both directions, their edges, and refused arguments and cursors."""

import base64
import random
from typing import Any

import pytest
from sqlalchemy import delete
from sqlmodel import col

from app.customers.models import Customer
from tests.accounts.state import mutation, reads
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter, run
from tests.support import TestAccount, World

pytestmark = pytest.mark.both_databases

ARGUMENTS = "$first: Int, $after: String, $last: Int, $before: String"
PASSED = "first: $first, after: $after, last: $last, before: $before"
INFO = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
LIST = f"query ({ARGUMENTS}) {{ customers({PASSED}) {{ edges {{ cursor node {{ name }} }} nodes {{ name }} {INFO} }} }}"
CONNECTIONS = (
    "customers",
    "meters",
    "users",
    "hostedConsents",
    "events",
    "webhookEndpoints",
    "emailSubscriptions",
    "deliveries",
)


async def customers(world: World, names: str) -> TestAccount:
    account = await world.account()
    for name in names:
        await make_customer(world, account, f"{name}@example.com", name=name)
    return account


async def page(
    world: World, account: TestAccount, **arguments: Any
) -> tuple[str, bool, bool, dict[str, Any]]:
    """Names on the page, hasNextPage, hasPreviousPage, the connection."""
    data = (await world.data(LIST, arguments, key=account.key))["customers"]
    names = "".join(one["name"] for one in data["nodes"])
    info, edges = data["pageInfo"], data["edges"]
    assert "".join(one["node"]["name"] for one in edges) == names
    ends = (edges[0]["cursor"], edges[-1]["cursor"]) if edges else (None, None)
    assert (info["startCursor"], info["endCursor"]) == ends
    return names, info["hasNextPage"], info["hasPreviousPage"], data


async def refused(world: World, account: TestAccount, **arguments: Any) -> list[str]:
    """The path of the refused argument."""
    [error] = (await world.ask(LIST, arguments, key=account.key))["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    field: list[str] = error["extensions"]["field"]
    return field


async def test_pages_forwards(world: World) -> None:
    account = await customers(world, "abcde")
    names, more, less, data = await page(world, account, first=2)
    assert (names, more, less) == ("ab", True, False)
    names, more, less, data = await page(world, account, first=2, after=data["pageInfo"]["endCursor"])
    assert (names, more, less) == ("cd", True, True)
    names, more, less, data = await page(world, account, first=2, after=data["pageInfo"]["endCursor"])
    assert (names, more, less) == ("e", False, True)
    names, more, less, data = await page(world, account, first=2, after=data["pageInfo"]["endCursor"])
    assert (names, more, less) == ("", False, True)


async def test_pages_backwards(world: World) -> None:
    account = await customers(world, "abcde")
    names, more, less, data = await page(world, account, last=2)
    assert (names, more, less) == ("de", False, True)
    names, more, less, data = await page(world, account, last=2, before=data["pageInfo"]["startCursor"])
    assert (names, more, less) == ("bc", True, True)
    names, more, less, data = await page(world, account, last=2, before=data["pageInfo"]["startCursor"])
    assert (names, more, less) == ("a", True, False)
    names, more, less, data = await page(world, account, last=1, before=data["pageInfo"]["startCursor"])
    assert (names, more, less) == ("", True, False)


async def test_between_two_cursors(world: World) -> None:
    account = await customers(world, "abcde")
    edges = (await page(world, account))[3]["edges"]
    a, e = edges[0]["cursor"], edges[4]["cursor"]
    assert (await page(world, account, after=a, before=e))[:3] == ("bcd", False, True)
    assert (await page(world, account, first=2, after=a, before=e))[:3] == ("bc", True, True)
    assert (await page(world, account, last=2, after=a, before=e))[:3] == ("cd", True, True)
    assert (await page(world, account, after=e, before=a))[0] == ""


async def test_an_empty_connection_has_no_cursors(world: World) -> None:
    account = await world.account()
    for arguments in ({}, {"first": 100}, {"last": 1}):
        names, more, less, data = await page(world, account, **arguments)
        assert (names, more, less, data["edges"]) == ("", False, False, [])


async def test_twenty_by_default_and_a_hundred_at_most(world: World) -> None:
    account = await world.account()
    create = mutation("createCustomer", "customer { id }")
    for number in range(101):
        await run(world, account, create, name=f"{number:03}", email=f"{number}@example.com")
    for arguments, first, count in (
        ({}, "000", 20),
        ({"first": 1}, "000", 1),
        ({"first": 100}, "000", 100),
        ({"last": 100}, "001", 100),
        ({"first": None, "last": None}, "000", 20),
    ):
        _, more, less, data = await page(world, account, **arguments)
        assert (data["nodes"][0]["name"], len(data["nodes"])) == (first, count)
        assert (more, less) == ((False, True) if arguments.get("last") else (True, False))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"first": 0}, "first"),
        ({"first": 101}, "first"),
        ({"first": -1}, "first"),
        ({"last": 0}, "last"),
        ({"last": 101}, "last"),
        ({"last": -1}, "last"),
        ({"first": 1, "last": 1}, "last"),
        ({"first": 2_147_483_648}, "first"),
        ({"first": "1"}, "first"),
        ({"after": ""}, "after"),
        ({"after": "nonsense"}, "after"),
        ({"after": "é"}, "after"),
        ({"before": "====", "last": 1}, "before"),
        ({"after": base64.urlsafe_b64encode(b"cus_").decode()}, "after"),
        ({"after": base64.urlsafe_b64encode(b"cus_' OR 1=1 --").decode()}, "after"),
        # Valid cursors have no padding.
        ({"after": base64.urlsafe_b64encode(b"cus_0123456789abcdefghjkmnpqrs").decode() + "="}, "after"),
    ],
)
async def test_wrong_arguments_are_refused(world: World, arguments: dict[str, Any], field: str) -> None:
    account = await customers(world, "a")
    assert await refused(world, account, **arguments) == [field]


async def test_a_cursor_of_another_connection_is_refused(world: World) -> None:
    account = await customers(world, "ab")
    listing = "{ users { pageInfo { endCursor } } events { pageInfo { endCursor } } }"
    others = await world.data(listing, key=account.key)
    for other in others.values():
        assert await refused(world, account, after=other["pageInfo"]["endCursor"]) == ["after"]
        assert await refused(world, account, last=1, before=other["pageInfo"]["endCursor"]) == ["before"]
    mine = (await page(world, account))[3]["pageInfo"]["startCursor"]
    for name in CONNECTIONS:
        if name != "customers":
            query = f"query ($after: String) {{ {name}(after: $after) {{ nodes {{ id }} }} }}"
            [error] = (await world.ask(query, {"after": mine}, key=account.key))["errors"]
            assert (name, error["extensions"]) == (name, {"code": "BAD_USER_INPUT", "field": ["after"]})


async def test_a_cursor_of_another_account_shows_only_ones_own(world: World) -> None:
    first = await customers(world, "ab")
    second = await customers(world, "cd")
    theirs = (await page(world, first))[3]["pageInfo"]["endCursor"]
    assert (await page(world, second, after=theirs))[0] == "cd"
    assert (await page(world, second, before=theirs, last=5))[0] == ""
    # Cursors of the log are bound to their account.
    query = "query ($after: String) { events(after: $after) { pageInfo { endCursor } } }"
    log = (await world.data(query, key=first.key))["events"]["pageInfo"]["endCursor"]
    [error] = (await world.ask(query, {"after": log}, key=second.key))["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": ["after"]}


async def test_pages_stay_stable_while_rows_come_and_go(world: World) -> None:
    account = await customers(world, "abcd")
    data = (await page(world, account, first=2))[3]
    ids = (await world.data("{ customers { nodes { id } } }", key=account.key))["customers"]["nodes"]
    remove = mutation("deleteCustomer", "deletedId")
    # The cursor's row is deleted, and another one before it; one is added at the end.
    for gone in (ids[0], ids[1]):
        await run(world, account, remove, customerId=gone["id"])
    await make_customer(world, account, "e@example.com", name="e")
    assert (await page(world, account, first=2, after=data["pageInfo"]["endCursor"]))[:2] == ("cd", True)
    assert (await page(world, account, first=5, after=data["pageInfo"]["endCursor"]))[:2] == ("cde", False)


@pytest.mark.parametrize(
    ("size", "cursor", "end"), [("first", "after", "endCursor"), ("last", "before", "startCursor")]
)
async def test_what_stays_is_on_one_page_whatever_comes_and_goes_anywhere(
    world: World, size: str, cursor: str, end: str
) -> None:
    account, chance = await world.account(), random.Random(5)
    ids = sorted(f"cus_{chance.randrange(10**26):026d}" for _ in range(120))
    late, there = set(chance.sample(ids, 40)), set(ids)
    await add(world, account, [one for one in ids if one not in late])
    there -= late
    stay, found, more, at = set(there), list[str](), True, None
    query = f"query ($at: String) {{ customers({size}: 7, {cursor}: $at) {{ nodes {{ id }} {INFO} }} }}"
    while more:
        data = (await world.data(query, {"at": at}, key=account.key))["customers"]
        page_ids = [one["id"] for one in data["nodes"]]
        found = found + page_ids if size == "first" else page_ids + found
        more = data["pageInfo"]["hasNextPage" if size == "first" else "hasPreviousPage"]
        at = data["pageInfo"][end]
        # Rows on either side are deleted, the cursor's among them, and others added.
        gone = {*chance.sample(sorted(there), 2), *page_ids[-1:], *page_ids[:1]} & there
        come = chance.sample(sorted(late), min(3, len(late)))
        async with world.database.transaction() as session:
            await session.execute(delete(Customer).where(col(Customer.id).in_(gone)))
        await add(world, account, come)
        there, late, stay = (there - gone) | set(come), late - set(come), stay - (gone - set(found))
    assert found == sorted(set(found))
    assert stay <= set(found)


async def add(world: World, account: TestAccount, ids: list[str]) -> None:
    """Adds customers with these ids."""
    async with world.database.transaction() as session:
        session.add_all(
            Customer(id=one, account_id=account.id, name=one, email=f"{one}@example.com") for one in ids
        )


async def test_every_connection_begins_empty_and_takes_the_same_arguments(world: World) -> None:
    account = await world.account()
    for name in CONNECTIONS:
        query = f"query ({ARGUMENTS}) {{ {name}({PASSED}) {{ edges {{ cursor }} nodes {{ id }} {INFO} }} }}"
        found = (await world.data(query, {"last": 1}, key=account.key))[name]
        assert len(found["nodes"]) == (1 if name in ("users", "events") else 0)
        for arguments, field in (({"first": 0}, "first"), ({"last": 101}, "last"), ({"after": "x"}, "after")):
            [error] = (await world.ask(query, arguments, key=account.key))["errors"]
            assert (name, error["extensions"]) == (name, {"code": "BAD_USER_INPUT", "field": [field]})


async def test_pages_of_many_parents_are_one_statement_and_each_their_own(world: World) -> None:
    account = await world.account()
    for at, name in enumerate("abc"):
        customer_id = await make_customer(world, account, f"{name}@example.com", name=name)
        await make_consent(world, account, customer_id)
        for number in NUMBERS[: at + 1]:
            await make_meter(world, account, customer_id, number)
    query = (
        f"query ({ARGUMENTS}) {{ customers {{ nodes {{ meters({PASSED}) {{ nodes {{ number }} "
        f"edges {{ cursor }} {INFO} }} }} }} }}"
    )

    async def nested(**arguments: Any) -> list[dict[str, Any]]:
        with reads(world.database) as sent:
            data = await world.data(query, arguments, key=account.key)
        assert len([one for one in sent if "FROM api_keys" not in one]) == 2
        return [one["meters"] for one in data["customers"]["nodes"]]

    def numbers(pages: list[dict[str, Any]]) -> list[list[str]]:
        return [[one["number"][-1] for one in found["nodes"]] for found in pages]

    pages = await nested(first=2)
    assert numbers(pages) == [["5"], ["5", "6"], ["5", "6"]]
    assert [one["pageInfo"]["hasNextPage"] for one in pages] == [False, False, True]
    after = pages[2]["pageInfo"]["endCursor"]
    assert numbers(await nested(first=2, after=after)) == [[], [], ["7"]]
    pages = await nested(last=1)
    assert numbers(pages) == [["5"], ["6"], ["7"]]
    assert [one["pageInfo"]["hasPreviousPage"] for one in pages] == [False, True, True]
    cursors = await world.data("{ customers { pageInfo { endCursor } } }", key=account.key)
    foreign = cursors["customers"]["pageInfo"]["endCursor"]
    for wrong, field in (({"first": 101}, "first"), ({"after": "x"}, "after"), ({"after": foreign}, "after")):
        response = await world.ask(query, wrong, key=account.key)
        assert {str(one["extensions"]) for one in response["errors"]} == {
            str({"code": "BAD_USER_INPUT", "field": [field]})
        }


async def test_a_meter_of_several_consents_is_on_each_page_once(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    meters = [await make_meter(world, account, customer_id, number) for number in NUMBERS[:3]]
    for _ in range(3):
        await make_consent(world, account, customer_id)
    query = "{ hostedConsents { nodes { meters(first: 2) { nodes { id } pageInfo { hasNextPage } } } } }"
    nodes = (await world.data(query, key=account.key))["hostedConsents"]["nodes"]
    expected = {"nodes": [{"id": one["id"]} for one in meters[:2]], "pageInfo": {"hasNextPage": True}}
    assert [one["meters"] for one in nodes] == [expected] * 3


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("{ customers(first: 1000) { nodes { id } } }", {}),
        ("{ customers(first: 1000) { nodes { meters(first: 1000) { nodes { id } } } } }", {}),
        ("{ customers(first: 100) { nodes { meters(first: 1000) { nodes { id } } } } }", {}),
        (
            "query ($n: Int) { customers(first: $n) { nodes { meters(first: $n) { nodes { id } } } } }",
            {"n": 1000},
        ),
    ],
    ids=["alone", "nested", "inside", "variable"],
)
async def test_a_page_that_is_too_large_is_told_before_its_cost(
    world: World, query: str, variables: dict[str, Any]
) -> None:
    account = await customers(world, "a")
    [error] = (await world.ask(query, variables, key=account.key))["errors"]
    advice = "for more, give after the endCursor of pageInfo"
    assert error["message"] == f"first must be 1 to 100, got 1000; {advice}."
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": ["first"]}
    [error] = (await world.ask("{ customers(last: 101) { nodes { id } } }", key=account.key))["errors"]
    assert (
        error["message"]
        == "last must be 1 to 100, got 101; for more, give before the startCursor of pageInfo."
    )
    [error] = (await world.ask("{ customers(first: 0) { nodes { id } } }", key=account.key))["errors"]
    assert error["message"] == "first must be 1 to 100, got 0."
