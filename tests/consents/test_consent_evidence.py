"""The evidence document over HTTP: access to it, and the decision by an upload."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.auth.actor import Scope
from app.auth.api_keys import ApiKey
from app.consents.documents import MAX_BYTES
from app.consents.models import ConsentMethod
from tests.consents.helpers import (
    BLANKET,
    ELECTRICITY,
    Asked,
    ask_for_consent,
    event_names,
    events,
    evidence_count,
)
from tests.consents.web import ORIGIN, visitor
from tests.support import World

PDF = b"%PDF-1.7\n" + bytes(range(256)) + b"\n%%EOF"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 16
LETTER = {"consent_method": ConsentMethod.LETTER_OF_AUTHORITY}


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with visitor(world) as opened:
        yield opened


def path(asked: Asked) -> str:
    return f"/hosted-consents/{asked.consent.id}/evidence"


async def put(
    client: httpx.AsyncClient,
    asked: Asked,
    content: Any = PDF,
    kind: str = "application/pdf",
    key: str | None = None,
) -> httpx.Response:
    headers = {"x-api-key": key or asked.key, "content-type": kind}
    return await client.put(path(asked), content=content, headers=headers)


async def test_download_by_key_and_by_the_consents_token(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    wrong = "vw_live_" + "A" * 43
    answers = [
        await client.get(path(asked), headers=headers)
        for headers in (
            {"x-api-key": asked.key},
            {"Authorization": f"Bearer {asked.key}"},
            {"Authorization": f"Bearer {asked.token}"},
            # The token alone decides; a key sent with it changes nothing.
            {"Authorization": f"Bearer {asked.token}", "x-api-key": wrong},
        )
    ]
    assert [one.status_code for one in answers] == [200] * 4
    assert len({one.content for one in answers}) == 1
    answer = answers[0]
    etag = f'"{hashlib.sha256(answer.content).hexdigest()}"'
    assert {name: answer.headers[name] for name in answer.headers} == {
        "cache-control": "private, no-store",
        "content-disposition": f'attachment; filename="consent-{asked.consent.id}.html"',
        "content-security-policy": (
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
        ),
        "content-type": "text/html; charset=utf-8",
        "content-length": str(len(answer.content)),
        "etag": etag,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    known = await client.get(path(asked), headers={"x-api-key": asked.key, "If-None-Match": f'"x", W/{etag}'})
    assert (known.status_code, known.content) == (304, b"")
    head = await client.head(path(asked), headers={"x-api-key": asked.key})
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))


async def test_others_find_nothing(world: World, client: httpx.AsyncClient) -> None:
    mine, theirs = await ask_for_consent(world), await ask_for_consent(world)
    await mine.approve()
    await theirs.approve()
    for headers, status, code in (
        ({}, 401, "UNAUTHENTICATED"),
        ({"x-api-key": "vw_live_" + "A" * 43}, 401, "UNAUTHENTICATED"),
        ({"x-api-key": mine.token}, 401, "UNAUTHENTICATED"),
        ({"Authorization": "Bearer vw_consent_" + "A" * 43, "x-api-key": mine.key}, 401, "UNAUTHENTICATED"),
        ({"x-api-key": theirs.key}, 404, "NOT_FOUND"),
        ({"Authorization": f"Bearer {theirs.token}"}, 404, "NOT_FOUND"),
        ({"Authorization": f"Bearer {theirs.token}", "x-api-key": mine.key}, 404, "NOT_FOUND"),
    ):
        answer = await client.get(path(mine), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert ("www-authenticate" in answer.headers) is (status == 401)
    await mine.expire()
    expired = await client.get(path(mine), headers={"Authorization": f"Bearer {mine.token}"})
    assert expired.status_code == 401
    assert (await client.get(path(mine), headers={"x-api-key": mine.key})).status_code == 200


async def test_there_is_none_before_the_decision(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world)
    answer = await client.get(path(asked), headers={"x-api-key": asked.key})
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("content", "kind", "suffix"),
    [(PDF, "application/pdf", "pdf"), (PNG, "Image/PNG", "png"), (JPEG, "image/jpeg; x=y", "jpg")],
)
@pytest.mark.parametrize(
    "method", [ConsentMethod.LETTER_OF_AUTHORITY, ConsentMethod.THIRD_PARTY_DIGITAL_CONSENT]
)
async def test_an_upload_approves_the_consent(
    world: World, client: httpx.AsyncClient, method: ConsentMethod, content: bytes, kind: str, suffix: str
) -> None:
    asked = await ask_for_consent(world, consent_method=method, consentee_full_name="Ada Lovelace")
    answer = await put(client, asked, content, kind)
    assert answer.status_code == 201
    body = answer.json()
    plain = kind.partition(";")[0].lower()
    assert {name: body[name] for name in body if name not in ("id", "createdAt")} == {
        "hostedConsentId": asked.consent.id,
        "fileName": f"consent-{asked.consent.id}.{suffix}",
        "contentType": plain,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "url": f"{ORIGIN}{path(asked)}",
    }
    consent = await asked.stored()
    assert (consent.decision, consent.page_version, consent.consentee_email_verified) == (
        "APPROVED",
        None,
        False,
    )
    names = ["customer.created", "meter.created", "hosted_consent.approved"]
    log = await events(world, asked.account_id)
    assert [one.type for one in log] == names
    assert log[-1].data["consentMethod"] == method.value
    assert log[-1].data["consenteeFullName"] == "Ada Lovelace"
    assert log[-1].data["meterNumbers"] == [ELECTRICITY]
    back = await client.get(path(asked), headers={"x-api-key": asked.key})
    assert (back.content, back.headers["content-type"]) == (content, plain)
    again = await put(client, asked, content, kind)
    assert (again.status_code, again.json()) == (200, body)
    other = await put(client, asked, PDF + b"more")
    assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")
    assert await event_names(world, asked.account_id) == names
    assert await evidence_count(world) == 1


async def test_who_may_not_upload(world: World, client: httpx.AsyncClient) -> None:
    mine, theirs = await ask_for_consent(world, **LETTER), await ask_for_consent(world, **LETTER)
    async with world.database.transaction() as session:
        key, reader = ApiKey.issue(mine.account_id, "reader", [Scope.READ])
        session.add(key)
    pdf = {"content-type": "application/pdf"}
    for headers, status, code in (
        ({}, 401, "UNAUTHENTICATED"),
        ({"x-api-key": reader}, 403, "FORBIDDEN"),
        ({"Authorization": f"Bearer {mine.token}"}, 403, "FORBIDDEN"),
        ({"Authorization": f"Bearer {mine.token}", "x-api-key": mine.key}, 403, "FORBIDDEN"),
        ({"x-api-key": theirs.key}, 404, "NOT_FOUND"),
    ):
        answer = await client.put(path(mine), content=PDF, headers={**pdf, **headers})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    await _nothing_happened(mine)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (PDF, "text/html", 415, "INVALID"),
        (PDF, "", 415, "INVALID"),
        (PNG, "application/pdf", 415, "INVALID"),
        (b"", "application/pdf", 415, "INVALID"),
        (PDF + b"x" * MAX_BYTES, "application/pdf", 413, "TOO_LONG"),
    ],
)
async def test_documents_that_are_not_taken(
    world: World, client: httpx.AsyncClient, content: bytes, kind: str, status: int, code: str
) -> None:
    asked = await ask_for_consent(world, **LETTER)
    answer = await put(client, asked, content, kind)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    await _nothing_happened(asked)


async def test_a_stream_is_read_no_further_than_allowed(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world, **LETTER)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 200:
            taken += 1
            yield PDF.ljust(1024 * 1024, b"x")

    answer = await put(client, asked, endless())
    assert answer.status_code == 413
    # A little more than the limit is read and dropped, so that the sender receives the answer.
    assert taken == 10 + 64 + 1
    await _nothing_happened(asked)


async def test_the_largest_document_is_taken(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world, **LETTER)
    assert (await put(client, asked, PDF.ljust(MAX_BYTES, b"x"))).status_code == 201


async def test_consents_that_take_no_document(world: World, client: httpx.AsyncClient) -> None:
    digital = await ask_for_consent(world)
    declined, expired, revoked = [await ask_for_consent(world, **LETTER) for _ in range(3)]
    await declined.decline()
    await expired.expire()
    assert (await put(client, revoked)).status_code == 201
    await revoked.revoke()
    for asked in (digital, declined, expired, revoked):
        before = (await asked.stored()).model_dump()
        answer = await put(client, asked, PNG, "image/png")
        assert (answer.status_code, answer.json()["code"]) == (409, "CONFLICT")
        assert (await asked.stored()).model_dump() == before


async def test_a_blanket_by_document(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world, **LETTER, flow_type=BLANKET, meter_numbers=None)
    assert (await put(client, asked)).status_code == 201
    assert await event_names(world, asked.account_id) == ["customer.created", "hosted_consent.approved"]


async def test_other_methods_are_not_allowed(world: World, client: httpx.AsyncClient) -> None:
    asked = await ask_for_consent(world)
    for method in ("POST", "DELETE"):
        assert (await client.request(method, path(asked))).status_code == 405


async def _nothing_happened(asked: Asked) -> None:
    assert (await asked.stored()).decision == "PENDING"
    assert await event_names(asked.world, asked.account_id) == ["customer.created"]
    assert await evidence_count(asked.world) == 0


@pytest.mark.parametrize(
    "identifier", ["%00", "hc_%00", "hc_01jdf3w8q2k7c9v5m1x0a4b6d8%00", "%ff", "x" * 5000]
)
async def test_what_is_no_id_is_not_found(world: World, client: httpx.AsyncClient, identifier: str) -> None:
    asked = await ask_for_consent(world, **LETTER)
    headers = {"x-api-key": asked.key, "content-type": "application/pdf"}
    url = f"/hosted-consents/{identifier}/evidence"
    for answer in (
        await client.get(url, headers=headers),
        await client.put(url, content=PDF, headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert await evidence_count(world) == 0
