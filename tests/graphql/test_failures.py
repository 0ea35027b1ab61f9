"""Internal errors are masked; errors of clients have code, sentence and field."""

from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.accounts.state import mutation, unchanged
from tests.support import World

CREATE = mutation("createCustomer", "customer { id }")
RECORD = mutation("recordReadings", "accepted")
CONSENT = mutation("createHostedConsent", "hostedConsent { id }")
AT = "2024-05-01T00:00:00Z"
GOOD = {"startAt": AT, "consumption": 1}
ASKED = {"customerId": "x", "flowType": "GB_COMMERCIAL_BLANKET", "expiry": "2030-01-01", "redirectUrl": "x"}


def recording(*readings: str) -> str:
    """A literal recordReadings of these readings, AT standing for an instant."""
    return f'recordReadings(input: {{meterId: "x", readings: [{", ".join(readings)}]}})'.replace(
        "AT", f'"{AT}"'
    )


def creating(fields: str) -> str:
    """A literal createCustomer with these fields beside an address."""
    return f'createCustomer(input: {{email: "a@example.com", {fields}}})'


async def bad_input(world: World, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
    """The only error of a request that changes nothing."""
    account = await world.account()
    async with unchanged(world):
        response = await world.ask(query, variables, key=account.key)
    assert "data" not in response
    [error] = response["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["locations"]
    found: dict[str, Any] = error
    return found


async def test_a_fault_of_ours_is_masked_and_logged_under_its_id(world: World) -> None:
    account = await world.account()
    async with world.database.transaction() as session:
        await session.execute(text("ALTER TABLE customers RENAME COLUMN name TO nom"))
    with capture_logs() as logs:
        response = await world.ask("{ viewer { scopes } customers { nodes { name } } }", key=account.key)
    [error] = response["errors"]
    assert (error["extensions"]["code"], error["path"]) == ("INTERNAL", ["customers"])
    assert response["data"] is None
    identifier = error["extensions"]["id"]
    assert identifier in error["message"]
    assert "customers" not in error["message"]
    [line] = [one for one in logs if one["log_level"] == "error"]
    assert line["error_id"] == identifier
    assert line["exc_info"][0].__name__ in ("OperationalError", "ProgrammingError")


async def test_a_fault_in_a_mutation_leaves_nothing(world: World) -> None:
    account = await world.account()
    async with world.database.transaction() as session:
        await session.execute(text("ALTER TABLE events RENAME COLUMN data TO donnees"))
    with capture_logs() as logs:
        response = await world.ask(
            CREATE, {"input": {"name": "Ada", "email": "ada@example.com"}}, key=account.key
        )
    [error] = response["errors"]
    assert error["extensions"]["id"] in {one.get("error_id") for one in logs}
    async with world.database.transaction() as session:
        await session.execute(text("ALTER TABLE events RENAME COLUMN donnees TO data"))
    data = await world.data("{ customers { nodes { id } } events { nodes { sequence } } }", key=account.key)
    assert data == {"customers": {"nodes": []}, "events": {"nodes": [{"sequence": 1}]}}


async def test_a_fault_in_one_mutation_leaves_what_another_gave(world: World) -> None:
    account = await world.account()
    made = await world.data(
        mutation("createWebhookEndpoint", "webhookEndpoint { id } secret"),
        {"input": {"url": "https://example.com/hook"}},
        key=account.key,
    )
    async with world.database.transaction() as session:
        await session.execute(text("ALTER TABLE events RENAME COLUMN data TO donnees"))
    with capture_logs():
        response = await world.ask(
            "mutation ($rotate: RotateWebhookSecretInput!, $create: CreateCustomerInput!) {"
            " rotateWebhookSecret(input: $rotate) { secret } createCustomer(input: $create) { customer { id } } }",
            {
                "rotate": {"webhookEndpointId": made["createWebhookEndpoint"]["webhookEndpoint"]["id"]},
                "create": {"name": "Ada", "email": "ada@example.com"},
            },
            key=account.key,
        )
    [error] = response["errors"]
    assert (error["extensions"]["code"], error["path"]) == ("INTERNAL", ["createCustomer"])
    assert response["data"]["createCustomer"] is None
    # The only copy of the new secret must arrive.
    secret = response["data"]["rotateWebhookSecret"]["secret"]
    assert secret.startswith("whsec_")
    assert secret != made["createWebhookEndpoint"]["secret"]


@pytest.mark.parametrize(
    ("document", "given", "field"),
    [
        (CREATE, {"name": "Ada"}, ["email"]),
        (CREATE, {"name": None, "email": "a@example.com"}, ["name"]),
        (CREATE, {"name": 7, "email": "a@example.com"}, ["name"]),
        (CREATE, {"name": "Ada", "email": "a@example.com", "color": "red"}, ["color"]),
        (CREATE, {"name": "Ada", "email": "a@example.com", "metadata": {"a": 1}}, ["metadata"]),
        (RECORD, {"meterId": "x", "readings": [{"startAt": AT}]}, ["readings", "0", "consumption"]),
        (RECORD, {"meterId": "x", "readings": [GOOD, 7]}, ["readings", "1"]),
        (RECORD, {"meterId": "x", "readings": [{**GOOD, "color": 1}]}, ["readings", "0", "color"]),
        (
            RECORD,
            {"meterId": "x", "readings": [GOOD, {**GOOD, "consumption": "1,5"}]},
            ["readings", "1", "consumption"],
        ),
        (
            RECORD,
            {"meterId": "x", "readings": [{**GOOD, "quality": "GUESSED"}]},
            ["readings", "0", "quality"],
        ),
        (RECORD, {"meterId": "x", "readings": "none"}, ["readings"]),
        (CONSENT, {**ASKED, "flowType": "NONE"}, ["flowType"]),
        (CONSENT, {**ASKED, "expiry": "1.1.2030"}, ["expiry"]),
    ],
)
async def test_a_wrong_variable_is_told_with_its_place(
    world: World, document: str, given: dict[str, Any], field: list[str]
) -> None:
    assert (await bad_input(world, document, {"input": given}))["extensions"]["field"] == field


@pytest.mark.parametrize(
    ("literal", "field"),
    [
        ('createCustomer(input: {name: "Ada"})', ["email"]),
        (creating("name: null"), ["name"]),
        (creating("name: 7"), ["name"]),
        (creating('name: "Ada", color: "red"'), ["color"]),
        (creating('name: "Ada", metadata: {a: 1}'), ["metadata"]),
        (recording("{startAt: AT}"), ["readings", "0", "consumption"]),
        (
            recording("{startAt: AT, consumption: 1}", '{startAt: AT, consumption: "1,5"}'),
            ["readings", "1", "consumption"],
        ),
        (recording("{startAt: AT, consumption: 1.0000001}"), ["readings", "0", "consumption"]),
        (recording("{startAt: AT, consumption: 1, quality: GUESSED}"), ["readings", "0", "quality"]),
        (recording('{startAt: "yesterday", consumption: 1}'), ["readings", "0", "startAt"]),
        (
            (
                'createHostedConsent(input: {customerId: "x", flowType: GB_COMMERCIAL_BLANKET, '
                'expiry: "1.1.2030", redirectUrl: "x"})'
            ),
            ["expiry"],
        ),
    ],
)
async def test_a_wrong_literal_is_told_with_its_place(world: World, literal: str, field: list[str]) -> None:
    error = await bad_input(world, f"mutation {{ {literal} {{ userErrors {{ code }} }} }}")
    assert error["extensions"]["field"] == field


@pytest.mark.parametrize(
    ("query", "variables", "field"),
    [
        ('{ customers(first: "two") { nodes { id } } }', {}, ["first"]),
        ("query ($n: Int) { customers(first: $n) { nodes { id } } }", {"n": "two"}, ["first"]),
        ("{ customer { id } }", {}, ["id"]),
        ("query ($id: ID!) { customer(id: $id) { id } }", {}, ["id"]),
        ("{ meters(filter: {types: [WATER]}) { nodes { id } } }", {}, ["filter", "types", "0"]),
        (
            "query ($t: MeterType!) { meters(filter: {types: [GAS, $t]}) { nodes { id } } }",
            {"t": "WATER"},
            ["filter", "types", "1"],
        ),
        (
            "query ($f: MeterFilter) { meters(filter: $f) { nodes { id } } }",
            {"f": {"types": ["GAS", "WATER"]}},
            ["filter", "types", "1"],
        ),
        (
            (
                'mutation ($email: String!) { createCustomer(input: {name: "A", email: $email}) '
                "{ userErrors { code } } }"
            ),
            {"email": 1},
            ["email"],
        ),
        (
            (
                "mutation ($m: Metadata) { "
                'createCustomer(input: {name: "A", email: "a@example.com", metadata: $m}) { userErrors { code } } }'
            ),
            {"m": {"a": None}},
            ["metadata"],
        ),
    ],
)
async def test_a_wrong_argument_is_told_by_its_name(
    world: World, query: str, variables: dict[str, Any], field: list[str]
) -> None:
    assert (await bad_input(world, query, variables))["extensions"]["field"] == field


async def test_null_where_only_running_it_shows_so_is_the_clients_fault(world: World) -> None:
    account = await world.account()
    query = 'query ($g: Granularity = DAY) { intervalData(meterId: "x", granularity: $g) { unit } }'
    response = await world.ask(query, {"g": None}, key=account.key)
    [error] = response["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": ["granularity"]}
    assert (error["path"], response["data"]) == (["intervalData"], {"intervalData": None})


@pytest.mark.parametrize("old", ["gb.domestic.specific", "GB_DOMESTIC_SPECIFIC"])
async def test_the_old_flow_name_names_the_new_one(world: World, old: str) -> None:
    given = {"customerId": "x", "flowType": old, "expiry": "2030-01-01", "redirectUrl": "https://example.com"}
    error = await bad_input(world, CONSENT, {"input": given})
    assert "renamed to GB_RESIDENTIAL_SPECIFIC" in error["message"]
    assert error["extensions"]["field"] == ["flowType"]
    literal = old if old.isupper() else f'"{old}"'
    query = (
        f'mutation {{ createHostedConsent(input: {{customerId: "x", flowType: {literal}, expiry: "2030-01-01", '
        'redirectUrl: "https://example.com"}) { userErrors { code } } }'
    )
    error = await bad_input(world, query)
    assert "renamed to GB_RESIDENTIAL_SPECIFIC" in error["message"]
    query = "query ($f: HostedConsentFilter) { hostedConsents(filter: $f) { nodes { id } } }"
    error = await bad_input(world, query, {"f": {"flowTypes": [old]}})
    assert "renamed to GB_RESIDENTIAL_SPECIFIC" in error["message"]


async def test_the_old_flow_name_in_another_text_is_only_a_text(world: World) -> None:
    error = await bad_input(world, CREATE, {"input": {"name": "gb.domestic.specific"}})
    assert "renamed" not in error["message"]


async def test_a_wrong_document_is_told(world: World) -> None:
    account = await world.account()
    for query, variables in (
        ("{", None),
        ("", None),
        ("{ nothing }", None),
        ("fragment F on Query { __typename }", None),
        ("query A { __typename } query B { __typename }", None),
        ("{ viewer { account } }", None),
        ("{ viewer { scopes { a } } }", None),
        ("subscription { events { id } again: events { id } }", None),
        ("query ($a: Nothing) { __typename }", {"a": 1}),
        ("{ customers { nodes { id } } } { customers { nodes { id } } }", None),
    ):
        response = await world.ask(query, variables, key=account.key)
        assert "data" not in response
        assert {one["extensions"]["code"] for one in response["errors"]} == {"BAD_USER_INPUT"}, query


async def test_a_long_message_is_cut(world: World) -> None:
    given = {"meterId": "x", "readings": [{"startAt": AT, "quality": "ACTUAL" * 500} for _ in range(200)]}
    account = await world.account()
    response = await world.ask(RECORD, {"input": given}, key=account.key)
    assert 1 < len(response["errors"]) <= 51
    assert max(len(one["message"]) for one in response["errors"]) <= 500


async def test_metadata_may_hold_variables(world: World) -> None:
    account = await world.account()
    query = (
        'mutation ($site: String!) { createCustomer(input: {name: "A", email: "a@example.com", '
        'metadata: {site: $site, tier: "1"}}) { customer { metadata } } }'
    )
    data = await world.data(query, {"site": "north"}, key=account.key)
    assert data["createCustomer"]["customer"]["metadata"] == {"site": "north", "tier": "1"}
