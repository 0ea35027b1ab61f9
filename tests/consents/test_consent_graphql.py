"""Hosted consents through the API: visibility, decisions, and refusals that change nothing."""

from typing import Any

import pytest

from app.auth.actor import Scope
from app.auth.api_keys import ApiKey
from app.consents.terms import PAGE_VERSION
from app.core import clock
from tests.consents.helpers import (
    BLANKET,
    ELECTRICITY,
    GAS,
    RESIDENTIAL,
    Asked,
    ask_again,
    ask_for_consent,
    event_names,
    in_a_year,
    meters,
)
from tests.support import World

FIELDS = """
    id description flowType flowCode status valid meterNumbers expiry redirectUrl link consentMethod consenteeFullName
    consenteeEmail consenteeEmailVerified consenteeJobTitle pageVersion consentedAt revokedAt revocationReason
    customer { id name email } meters { nodes { number status } }
"""
CREATE = f"""mutation ($input: CreateHostedConsentInput!) {{
    createHostedConsent(input: $input) {{ hostedConsent {{ {FIELDS} }} userErrors {{ code message field }} }} }}"""
UPDATE = """mutation ($input: UpdateHostedConsentInput!) {
    updateHostedConsent(input: $input) { hostedConsent { description expiry } userErrors { code field } } }"""
APPROVE = f"""mutation ($input: ApproveHostedConsentInput!) {{
    approveHostedConsent(input: $input) {{ hostedConsent {{ {FIELDS} }} userErrors {{ code field }} }} }}"""
DECLINE = """mutation ($input: DeclineHostedConsentInput!) {
    declineHostedConsent(input: $input) {
        hostedConsent { status valid link consentedAt } userErrors { code field } } }"""
REVOKE = """mutation ($input: RevokeHostedConsentInput!) {
    revokeHostedConsent(input: $input) { hostedConsent { status revocationReason } userErrors { code field } } }"""
BY_TOKEN = f"query ($token: String!) {{ hostedConsentByToken(token: $token) {{ {FIELDS} }} }}"
ONE = f"query ($id: ID!) {{ hostedConsent(id: $id) {{ {FIELDS} }} }}"
EVIDENCE = """query ($id: ID!) { hostedConsentEvidence(hostedConsentId: $id) {
    id hostedConsent { id } fileName contentType size sha256 pageVersion createdAt url } }"""
WHO = {
    "consenteeFullName": "Ada Lovelace",
    "consenteeEmail": "ada@example.com",
    "consenteeJobTitle": "Occupier",
}


async def key_of(world: World, account_id: str, *scopes: Scope) -> str:
    async with world.database.transaction() as session:
        key, secret = ApiKey.issue(account_id, "another", list(scopes))
        session.add(key)
    return secret


def wanted(asked: Asked, **changes: Any) -> dict[str, Any]:
    return {
        "customerId": asked.customer.id,
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://bright.example/done",
        **changes,
    }


async def test_create_shows_the_request_and_its_link(world: World) -> None:
    asked = await ask_for_consent(world)
    given = wanted(asked, meterNumbers=[ELECTRICITY], description="Tariff", consenteeEmail="ada@example.com")
    data = await world.data(CREATE, {"input": given}, key=asked.key)
    consent = data["createHostedConsent"]["hostedConsent"]
    link = consent.pop("link")
    assert link.startswith("http://127.0.0.1:8000/consents/vw_consent_")
    assert consent.pop("id").startswith("hc_")
    assert consent == {
        "description": "Tariff",
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "flowCode": "gb.residential.specific",
        "status": "PENDING",
        "valid": False,
        "meterNumbers": [ELECTRICITY],
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://bright.example/done",
        "consentMethod": "DIGITAL_CONSENT",
        "consenteeFullName": None,
        "consenteeEmail": "ada@example.com",
        "consenteeEmailVerified": False,
        "consenteeJobTitle": None,
        "pageVersion": None,
        "consentedAt": None,
        "revokedAt": None,
        "revocationReason": None,
        "customer": {"id": asked.customer.id, "name": "Ada Lovelace", "email": "ada@example.com"},
        "meters": {"nodes": []},
    }
    assert data["createHostedConsent"]["userErrors"] == []


async def test_create_refuses_with_the_path_below_input(world: World) -> None:
    asked = await ask_for_consent(world)
    given = wanted(asked, meterNumbers=[ELECTRICITY, "12"], redirectUrl="http://bright.example")
    data = await world.data(CREATE, {"input": given}, key=asked.key)
    assert data["createHostedConsent"]["hostedConsent"] is None
    errors = data["createHostedConsent"]["userErrors"]
    assert [(one["code"], one["field"]) for one in errors] == [
        ("URL_NOT_ALLOWED", ["redirectUrl"]),
        ("INVALID_METER_NUMBER", ["meterNumbers", "1"]),
    ]
    everything = await world.data("{ hostedConsents { nodes { id } } }", key=asked.key)
    assert everything == {"hostedConsents": {"nodes": [{"id": asked.consent.id}]}}


async def test_the_same_idempotency_key_gives_the_same_link(world: World) -> None:
    asked = await ask_for_consent(world)
    given = wanted(asked, idempotencyKey="once")
    first = await world.data(CREATE, {"input": given}, key=asked.key)
    assert first["createHostedConsent"]["hostedConsent"]["link"] is not None
    assert await world.data(CREATE, {"input": given}, key=asked.key) == first
    again = await world.data(CREATE, {"input": {**given, "description": "x"}}, key=asked.key)
    assert [one["code"] for one in again["createHostedConsent"]["userErrors"]] == ["IDEMPOTENCY_KEY_REUSED"]


@pytest.mark.parametrize("beside", [None, "own", "foreign"])
async def test_the_token_alone_approves(world: World, beside: str | None) -> None:
    asked, foreign = await ask_for_consent(world), await ask_for_consent(world)
    key = {None: None, "own": asked.key, "foreign": foreign.key}[beside]
    data = await world.data(APPROVE, {"input": {"token": asked.token, **WHO}}, key=key)
    assert data["approveHostedConsent"]["userErrors"] == []
    consent = data["approveHostedConsent"]["hostedConsent"]
    assert (consent["status"], consent["valid"], consent["link"]) == ("APPROVED", True, None)
    assert consent["customer"] == {
        "id": asked.customer.id,
        "name": "Ada Lovelace",
        "email": "ada@example.com",
    }
    assert consent["meters"]["nodes"] == [{"number": ELECTRICITY, "status": "ACTIVE"}]
    assert (consent["consenteeEmail"], consent["consenteeEmailVerified"]) == ("ada@example.com", False)
    assert consent["pageVersion"] == PAGE_VERSION
    stored = await asked.stored()
    assert stored.consented_at is not None
    assert consent["consentedAt"] == clock.format_utc(stored.consented_at)
    again = await world.data(APPROVE, {"input": {"token": asked.token, **WHO}}, key=key)
    assert again["approveHostedConsent"]["userErrors"] == [{"code": "TOKEN_USED", "field": ["token"]}]


async def test_approval_once_more_with_its_idempotency_key(world: World) -> None:
    asked = await ask_for_consent(world)
    given = {"token": asked.token, **WHO, "idempotencyKey": "approve-1"}
    first = await world.data(APPROVE, {"input": given})
    assert await world.data(APPROVE, {"input": given}) == first
    assert (await event_names(world, asked.account_id)).count("hosted_consent.approved") == 1


@pytest.mark.parametrize(("mutation", "more"), [(APPROVE, WHO), (DECLINE, {})])
async def test_wrong_and_expired_tokens(world: World, mutation: str, more: dict[str, str]) -> None:
    asked = await ask_for_consent(world)
    await asked.expire()
    for token, code in (
        ("vw_consent_no", "NOT_FOUND"),
        (asked.key, "NOT_FOUND"),
        (asked.token, "TOKEN_EXPIRED"),
    ):
        data = await world.data(mutation, {"input": {"token": token, **more}}, key=asked.key)
        (payload,) = data.values()
        assert payload == {"hostedConsent": None, "userErrors": [{"code": code, "field": ["token"]}]}
    assert await event_names(world, asked.account_id) == ["customer.created"]
    assert await meters(world, asked.account_id) == []


async def test_the_token_declines(world: World) -> None:
    asked = await ask_for_consent(world)
    data = await world.data(DECLINE, {"input": {"token": asked.token, "reason": "No"}})
    assert data["declineHostedConsent"] == {
        "hostedConsent": {"status": "DECLINED", "valid": False, "link": None, "consentedAt": None},
        "userErrors": [],
    }


async def test_by_token_shows_the_end_customers_part_until_expiry(world: World) -> None:
    asked, other = await ask_for_consent(world), await ask_for_consent(world)
    await ask_again(world, asked.account_id, asked.key, asked.actor, asked.customer, flow_type=BLANKET)
    mine = f"""query ($token: String!) {{ hostedConsentByToken(token: $token) {{ {FIELDS}
        customer {{ hostedConsents {{ nodes {{ id }} }} }} }} }}"""
    for key in (None, asked.key, other.key):
        data = await world.data(mine, {"token": asked.token}, key=key)
        consent = data["hostedConsentByToken"]
        assert consent["link"] == f"http://127.0.0.1:8000/consents/{asked.token}"
        assert consent["customer"]["hostedConsents"]["nodes"] == [{"id": asked.consent.id}]
    await asked.approve()
    consent = (await world.data(BY_TOKEN, {"token": asked.token}))["hostedConsentByToken"]
    assert (consent["status"], consent["link"]) == ("APPROVED", None)
    assert [one["number"] for one in consent["meters"]["nodes"]] == [ELECTRICITY]
    assert await world.data(BY_TOKEN, {"token": other.key}, key=other.key) == {"hostedConsentByToken": None}
    await asked.expire()
    assert await world.data(BY_TOKEN, {"token": asked.token}, key=asked.key) == {"hostedConsentByToken": None}


async def test_the_link_is_for_keys_that_may_write(world: World) -> None:
    asked = await ask_for_consent(world)
    reader = await key_of(world, asked.account_id, Scope.READ)
    writer = await key_of(world, asked.account_id, Scope.WRITE)
    links = [
        (
            await world.data(
                "query ($id: ID!) { hostedConsent(id: $id) { link } }", {"id": asked.consent.id}, key=key
            )
        )["hostedConsent"]["link"]
        for key in (reader, writer, asked.key)
    ]
    url = f"http://127.0.0.1:8000/consents/{asked.token}"
    assert links == [None, url, url]


async def test_what_needs_a_key_that_may_write(world: World) -> None:
    asked = await ask_for_consent(world)
    reader = await key_of(world, asked.account_id, Scope.READ)
    before = (await asked.stored()).model_dump()
    for mutation, given in (
        (CREATE, wanted(asked)),
        (UPDATE, {"hostedConsentId": asked.consent.id, "description": "x"}),
        (REVOKE, {"hostedConsentId": asked.consent.id}),
    ):
        answer = await world.ask(mutation, {"input": given}, key=reader)
        assert [one["extensions"]["code"] for one in answer["errors"]] == ["FORBIDDEN"]
        answer = await world.ask(mutation, {"input": given})
        assert [one["extensions"]["code"] for one in answer["errors"]] == ["UNAUTHENTICATED"]
    assert (await asked.stored()).model_dump() == before


async def test_another_account_finds_nothing(world: World) -> None:
    mine, theirs = await ask_for_consent(world), await ask_for_consent(world)
    await theirs.approve()
    target = {"id": theirs.consent.id}
    assert await world.data(ONE, target, key=mine.key) == {"hostedConsent": None}
    assert await world.data(EVIDENCE, target, key=mine.key) == {"hostedConsentEvidence": None}
    assert await world.data("query ($id: ID!) { node(id: $id) { id } }", target, key=mine.key) == {
        "node": None
    }
    listed = await world.data(
        "query ($ids: [ID!]) { hostedConsents(filter: {customerIds: $ids}) { nodes { id } } }",
        {"ids": [theirs.customer.id]},
        key=mine.key,
    )
    assert listed == {"hostedConsents": {"nodes": []}}
    for mutation, given in (
        (UPDATE, {"hostedConsentId": theirs.consent.id, "description": "x"}),
        (REVOKE, {"hostedConsentId": theirs.consent.id}),
    ):
        (payload,) = (await world.data(mutation, {"input": given}, key=mine.key)).values()
        assert payload["userErrors"] == [{"code": "NOT_FOUND", "field": ["hostedConsentId"]}]
    assert (await theirs.stored()).decision == "APPROVED"


async def test_update_and_revoke(world: World) -> None:
    asked = await ask_for_consent(world)
    given = {"hostedConsentId": asked.consent.id}
    changed = await world.data(
        UPDATE, {"input": {**given, "description": "New", "expiry": "2026-01-01"}}, key=asked.key
    )
    assert changed["updateHostedConsent"]["userErrors"] == [{"code": "OUT_OF_RANGE", "field": ["expiry"]}]
    changed = await world.data(UPDATE, {"input": {**given, "description": "New"}}, key=asked.key)
    assert changed["updateHostedConsent"]["hostedConsent"] == {
        "description": "New",
        "expiry": in_a_year().isoformat(),
    }
    early = await world.data(REVOKE, {"input": given}, key=asked.key)
    assert early["revokeHostedConsent"]["userErrors"] == [{"code": "CONFLICT", "field": ["hostedConsentId"]}]
    await asked.approve()
    done = await world.data(REVOKE, {"input": {**given, "reason": "Asked"}}, key=asked.key)
    assert done["revokeHostedConsent"]["hostedConsent"] == {"status": "REVOKED", "revocationReason": "Asked"}


async def test_lists_and_filters(world: World) -> None:
    asked = await ask_for_consent(world)
    again = (world, asked.account_id, asked.key, asked.actor, asked.customer)
    approved, declined, revoked, expired, lapsed, blanket = [
        await ask_again(*again, flow_type=flow) for flow in [RESIDENTIAL] * 5 + [BLANKET]
    ]
    for one in (approved, revoked, expired):
        await one.approve()
    await declined.decline()
    await revoked.revoke()
    await expired.expire()
    await lapsed.expire()
    every = (asked, approved, declined, revoked, expired, lapsed, blanket)
    words = ("pending", "approved", "declined", "revoked", "expired", "lapsed", "blanket")
    names = {one.consent.id: word for one, word in zip(every, words, strict=True)}

    async def found(filter: str) -> list[str]:
        data = await world.data(f"{{ hostedConsents(filter: {filter}) {{ nodes {{ id }} }} }}", key=asked.key)
        return [names[one["id"]] for one in data["hostedConsents"]["nodes"]]

    assert await found("{}") == list(names.values())
    assert await found("{statuses: [PENDING]}") == ["pending", "blanket"]
    assert await found("{statuses: [EXPIRED, REVOKED]}") == ["revoked", "expired", "lapsed"]
    assert await found("{statuses: [APPROVED, DECLINED]}") == ["approved", "declined"]
    assert await found("{statuses: []}") == []
    assert await found("{valid: true}") == ["approved"]
    assert await found("{valid: false}") == [one for one in names.values() if one != "approved"]
    assert await found("{flowTypes: [GB_COMMERCIAL_BLANKET]}") == ["blanket"]
    assert await found("{flowTypes: []}") == []
    assert await found("{customerIds: []}") == []
    assert await found('{customerIds: ["cus_x"]}') == []


async def test_meters_of_several_consents_are_paged_apart(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=[ELECTRICITY, GAS])
    again = (world, asked.account_id, asked.key, asked.actor, asked.customer)
    blanket = await ask_again(*again, flow_type=BLANKET, meter_numbers=None)
    await asked.approve()
    await blanket.approve(meter_numbers=["2499999999991"])
    page = """{ hostedConsents { nodes { id meters(%s) {
        nodes { number customer { id } } pageInfo { hasNextPage endCursor } } } } }"""
    nodes = (await world.data(page % "first: 2", key=asked.key))["hostedConsents"]["nodes"]
    assert [[one["number"] for one in node["meters"]["nodes"]] for node in nodes] == [[ELECTRICITY, GAS]] * 2
    assert [node["meters"]["pageInfo"]["hasNextPage"] for node in nodes] == [False, True]
    cursor = nodes[1]["meters"]["pageInfo"]["endCursor"]
    nodes = (await world.data(page % f'first: 2, after: "{cursor}"', key=asked.key))["hostedConsents"][
        "nodes"
    ]
    assert [[one["number"] for one in node["meters"]["nodes"]] for node in nodes] == [[], ["2499999999991"]]


async def test_evidence_is_its_own_object(world: World) -> None:
    asked = await ask_for_consent(world)
    assert await world.data(EVIDENCE, {"id": asked.consent.id}, key=asked.key) == {
        "hostedConsentEvidence": None
    }
    await asked.approve()
    evidence = (await world.data(EVIDENCE, {"id": asked.consent.id}, key=asked.key))["hostedConsentEvidence"]
    assert evidence["hostedConsent"] == {"id": asked.consent.id}
    assert evidence["contentType"] == "text/html; charset=utf-8"
    assert evidence["pageVersion"] == PAGE_VERSION
    assert evidence["url"] == f"http://127.0.0.1:8000/hosted-consents/{asked.consent.id}/evidence"
    node = await world.data(
        "query ($id: ID!) { node(id: $id) { ... on HostedConsentEvidence { sha256 } } }",
        {"id": evidence["id"]},
        key=asked.key,
    )
    assert node == {"node": {"sha256": evidence["sha256"]}}


async def test_events_find_their_consent_as_it_is_now(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    again = await ask_again(world, asked.account_id, asked.key, asked.actor, asked.customer)
    await again.decline()
    await asked.revoke()
    data = await world.data(
        """{ events(filter: {types: [HOSTED_CONSENT_APPROVED, HOSTED_CONSENT_REVOKED, HOSTED_CONSENT_DECLINED]})
            { nodes { name data
            ... on HostedConsentDeclinedEvent { hostedConsent { id status } customer { name } }
            ... on HostedConsentApprovedEvent { hostedConsent { id status } customer { name } }
            ... on HostedConsentRevokedEvent { hostedConsent { id status } customer { name } } } } }""",
        key=asked.key,
    )
    nodes = data["events"]["nodes"]
    now = {"id": asked.consent.id, "status": "REVOKED"}
    assert [(one["name"], one["data"]["status"], one["hostedConsent"], one["customer"]) for one in nodes] == [
        ("hosted_consent.approved", "APPROVED", now, {"name": "Ada Lovelace"}),
        (
            "hosted_consent.declined",
            "DECLINED",
            {"id": again.consent.id, "status": "DECLINED"},
            {"name": "Ada Lovelace"},
        ),
        ("hosted_consent.revoked", "REVOKED", now, {"name": "Ada Lovelace"}),
    ]
