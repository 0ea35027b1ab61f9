"""Responses: caching, compression, cost, and a browser's visit to the endpoint."""

import gzip
import json
from typing import Any

import httpx
import pytest

from app.graphql.http.compression import BESIDE, SHORTEST, gzipped, takes_gzip
from tests.accounts.state import mutation
from tests.consents.helpers import ask_for_consent
from tests.graphql.http.test_view import GRAPHQL, JSON, client
from tests.meters.asking import make_customer
from tests.support import TestAccount, World

LONG = "{ eventTypes { name description schema example } }"
COUNTED = "{ customers(first: 7) { nodes { id meters(first: 2) { nodes { id } } } } }"
VARY = "Accept, Accept-Encoding, Authorization, X-Api-Key"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


async def asked(
    world: World, account: TestAccount, method: str, query: str, **more: Any
) -> tuple[httpx.Response, bytes]:
    """The response with its raw bytes."""
    headers = {"x-api-key": account.key, "accept": JSON, "accept-encoding": "identity", **more}
    given: dict[str, Any] = {"params" if method == "GET" else "json": {"query": query}}
    async with (
        client(world) as opened,
        opened.stream(method, "/graphql", headers=headers, **given) as response,
    ):
        return response, b"".join([one async for one in response.aiter_raw()])


@pytest.mark.parametrize(
    ("accepted", "takes"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip; q=0.5, identity", False),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("gzip;q=0.001", True),
        ("gzip;q=much", False),
        ("br", False),
        ("gzipped", False),
    ],
)
def test_who_takes_gzip(accepted: str | None, takes: bool) -> None:
    assert takes_gzip(accepted) is takes


@pytest.mark.parametrize("length", [SHORTEST, BESIDE + 1])
async def test_gzip_is_the_same_each_time(length: int) -> None:
    body = b"abc" * length
    assert gzip.decompress(await gzipped(body)) == body
    assert await gzipped(body) == await gzipped(body)


async def test_a_long_answer_is_compressed_for_who_asks_for_it(world: World) -> None:
    account = await world.account()
    plain, body = await asked(world, account, "POST", LONG)
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == VARY
    packed, content = await asked(world, account, "POST", LONG, **{"accept-encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["content-length"] == str(len(content))
    assert packed.headers["content-type"] == plain.headers["content-type"]
    assert packed.headers["vary"] == VARY
    assert gzip.decompress(content) == body
    assert len(content) < len(body) / 3


async def test_what_is_short_shows_secrets_or_is_a_stream_goes_out_as_it_is(world: World) -> None:
    account = await world.account()
    takes = {"accept-encoding": "gzip"}
    short, _ = await asked(world, account, "POST", "{ __typename }", **takes)
    assert "content-encoding" not in short.headers
    # With anything beside it.
    about = " ".join(f"a{number}: name" for number in range(25))
    create = mutation("createApiKey", f"secret apiKey {{ id {about} }}")
    variables = {"input": {"name": "x" * 100}}
    async with client(world) as opened:
        response = await opened.post(
            "/graphql",
            json={"query": create, "variables": variables},
            headers={"x-api-key": account.key, **takes},
        )
    assert len(response.content) > SHORTEST
    assert response.json()["data"]["createApiKey"]["secret"].startswith("vw_live_")
    assert "content-encoding" not in response.headers
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "selection",
    [
        "consents: hostedConsents { nodes { link } }",
        "consents: hostedConsents { nodes { ...F } }",
        'hostedConsentByToken(token: "vw_consent_x") { id }',
        "events { nodes { ... on HostedConsentApprovedEvent { hostedConsent { other: link } } } }",
        'node(id: "x") { ... on HostedConsentEvidence { url } }',
        'hostedConsentEvidence(hostedConsentId: "x") { fileName }',
    ],
)
async def test_what_opens_something_is_kept_by_nobody_and_goes_out_as_it_is(
    world: World, selection: str
) -> None:
    consent = await ask_for_consent(world)
    account = TestAccount(consent.account_id, "", consent.key)
    many = f"hostedConsents {{ nodes {{ {' '.join(f'a{number}: redirectUrl' for number in range(25))} }} }}"
    fragment = "fragment F on HostedConsent { link }" if "...F" in selection else ""
    query = f"{{ {selection} {many} }} {fragment}"
    for method in ("GET", "POST"):
        response, body = await asked(world, account, method, query, **{"accept-encoding": "gzip"})
        assert "errors" not in json.loads(body)
        assert len(body) > SHORTEST
        assert response.headers["cache-control"] == "no-store"
        assert not {"etag", "content-encoding"} & set(response.headers)
        response, _ = await asked(world, account, method, query, **{"if-none-match": "*"})
        assert response.status_code == 200
    # Responses without a secret may be cached as usual.
    query = f"{{ {many} }}"
    response, _ = await asked(world, account, "GET", query, **{"accept-encoding": "gzip"})
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["content-encoding"] == "gzip"


async def test_nobody_keeps_an_answer_to_post_or_an_error(world: World) -> None:
    account = await world.account()
    for method, query in (
        ("POST", LONG),
        ("GET", "{ nothing }"),
        ("GET", "{ intervalData { unit } }"),
    ):
        response, _ = await asked(world, account, method, query)
        assert response.headers["cache-control"] == "no-store"
        assert "etag" not in response.headers
        assert response.headers["vary"] == VARY
    async with client(world) as opened:
        response = await opened.post("/graphql", json={"query": "{ viewer { scopes } }"})
    assert (response.status_code, response.headers["cache-control"]) == (401, "no-store")


async def test_what_has_not_changed_is_not_sent_again(world: World) -> None:
    account = await world.account()
    query = "{ customers { nodes { name } } }"
    first, _ = await asked(world, account, "GET", query)
    assert first.headers["cache-control"] == "private, no-cache"
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again, body = await asked(world, account, "GET", query, **{"if-none-match": known})
        assert (again.status_code, again.headers["etag"], body) == (304, tag, b"")
        assert again.headers["vary"] == VARY
    await make_customer(world, account)
    changed, body = await asked(world, account, "GET", query, **{"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    # A POST always gets a response.
    posted, _ = await asked(world, account, "POST", query, **{"if-none-match": changed.headers["etag"]})
    assert posted.status_code == 200


async def test_the_tag_stands_for_the_compressed_answer_as_well(world: World) -> None:
    account = await world.account()
    plain, _ = await asked(world, account, "GET", LONG)
    packed, _ = await asked(world, account, "GET", LONG, **{"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] == plain.headers["etag"]


async def test_the_cost_is_told_when_it_is_asked_for(world: World) -> None:
    account = await world.account()
    headers = {"x-api-key": account.key, "accept": GRAPHQL}
    expected = {"data": {"customers": {"nodes": []}}, "extensions": {"cost": 21}}
    async with client(world) as opened:
        body: dict[str, Any] = {"query": COUNTED, "extensions": {"cost": True}}
        assert (await opened.post("/graphql", json=body, headers=headers)).json() == expected
        parameters = {"query": COUNTED, "extensions": json.dumps({"cost": True})}
        assert (await opened.get("/graphql", params=parameters, headers=headers)).json() == expected
        for extensions in (None, {}, {"cost": False}, {"cost": 1}, {"other": True}):
            body = {"query": COUNTED, "extensions": extensions}
            assert list((await opened.post("/graphql", json=body, headers=headers)).json()) == ["data"]
        skipping = "customers(first: $n) { nodes { id } } users @skip(if: $no) { nodes { id } }"
        query = f"query ($n: Int!, $no: Boolean!) {{ {skipping} }}"
        for n, no, cost in ((3, False, 23), (5, True, 5)):
            body = {"query": query, "variables": {"n": n, "no": no}, "extensions": {"cost": True}}
            answer = (await opened.post("/graphql", json=body, headers=headers)).json()
            assert answer["extensions"] == {"cost": cost}


async def test_a_browser_is_led_to_the_start_page(world: World) -> None:
    async with client(world) as opened:
        for accept in (BROWSER, "text/html"):
            for method in ("GET", "HEAD"):
                response = await opened.request(method, "/graphql", headers={"accept": accept})
                assert (response.status_code, response.headers["location"]) == (303, "/")
                assert response.headers["vary"] == "Accept"
        # Requests with a query get a response.
        response = await opened.get(
            "/graphql", params={"query": "{ __typename }"}, headers={"accept": BROWSER}
        )
        assert response.json() == {"data": {"__typename": "Query"}}
        for accept in ("*/*", JSON, f"{JSON}, text/html;q=0.5"):
            assert (await opened.get("/graphql", headers={"accept": accept})).status_code == 400
        response = await opened.post("/graphql", headers={"accept": "text/html"})
        assert (response.status_code, response.headers["vary"]) == (406, "Accept")
