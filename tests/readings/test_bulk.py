"""`POST /readings` over HTTP is all or nothing, limited, and idempotent by its key."""

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.accounts import actions as accounts
from app.auth.actor import Scope
from app.graphql.http.rates import Rates
from app.readings import bulk
from app.readings.rows import MAX_ROWS
from tests.accounts.state import unchanged
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter
from tests.readings.generated_year import (
    GENERATED_JANUARY,
    GENERATED_TOTAL,
    HALF_HOURS,
    METER_NUMBER,
    SHARED_JANUARY,
    SHARED_TOTAL,
    generated_year,
    shared_year,
    shared_year_path,
)
from tests.readings.metered import as_csv, as_ndjson, metered
from tests.readings.test_intervals import expect_year
from tests.support import World

CSV = "text/csv"
NDJSON = "application/x-ndjson"
HEADER = "meter_id,start_at,consumption\n"


@asynccontextmanager
async def client(world: World, rate: float = 1000) -> AsyncIterator[httpx.AsyncClient]:
    """`rate` is the number of requests let through, because the limit's clock stands still."""
    app = Starlette(routes=bulk.routes(world.services, world.authenticator, Rates(rate, clock=lambda: 0.0)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as opened:
        yield opened


async def post(
    world: World, key: str | None, content: Any, media_type: str = CSV, rate: float = 1000, **headers: str
) -> httpx.Response:
    sent = {"content-type": media_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    async with client(world, rate) as opened:
        return await opened.post("/readings", content=content, headers=sent)


def rows(meter_id: str, *values: str, day: str = "2024-05-01") -> str:
    """Half-hours from midnight on, as CSV."""
    return HEADER + "".join(
        f"{meter_id},{day}T{at // 2:02}:{at % 2 * 30:02}:00Z,{value}\n" for at, value in enumerate(values)
    )


def refused(response: httpx.Response) -> list[tuple[int, str]]:
    assert response.status_code == 422
    assert list(response.json()) == ["errors"]
    assert all(list(one) == ["line", "code", "message"] for one in response.json()["errors"])
    return [(one["line"], one["code"]) for one in response.json()["errors"]]


async def test_a_generated_year_goes_in_as_csv_and_comes_out_exactly(world: World) -> None:
    meter = await metered(world)
    year = generated_year()
    response = await post(
        world, meter.account.key, gzip.compress(as_csv(year, meter.meter_id)), content_encoding="gzip"
    )
    assert (response.status_code, response.json()) == (
        200,
        {"accepted": HALF_HOURS, "changed": HALF_HOURS, "meters": 1},
    )
    await expect_year(meter, year, GENERATED_TOTAL, GENERATED_JANUARY)
    [event] = await meter.received()
    assert event.data == {
        "meterId": meter.meter_id,
        "customerId": meter.customer_id,
        "from": "2024-01-01T00:00:00.000Z",
        "to": "2024-12-02T00:00:00.000Z",
        "intervalCount": HALF_HOURS,
        "channel": "IMPORT",
        "reason": "PUSH",
        "estimatedCount": 190,
        "backfillId": None,
        "part": None,
        "parts": None,
    }


@pytest.mark.parametrize("media_type", [CSV, NDJSON])
@pytest.mark.skipif(shared_year_path() is None, reason="the real year is not beside the repository")
async def test_the_real_year_goes_in_and_comes_out_exactly(world: World, media_type: str) -> None:
    meter = await metered(world)
    year = shared_year()
    content = as_csv(year, meter.meter_id) if media_type == CSV else as_ndjson(year, METER_NUMBER)
    response = await post(world, meter.account.key, content, media_type)
    assert response.json() == {"accepted": HALF_HOURS, "changed": HALF_HOURS, "meters": 1}
    await expect_year(meter, year, SHARED_TOTAL, SHARED_JANUARY)
    again = await post(world, meter.account.key, content, media_type)
    assert again.json() == {"accepted": HALF_HOURS, "changed": 0, "meters": 1}
    assert [one.data["intervalCount"] for one in await meter.received()] == [HALF_HOURS]


async def test_each_meter_that_changed_is_one_event(world: World) -> None:
    meter = await metered(world)
    others = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS[:2]]
    first, second, third = meter.meter_id, *(one["id"] for one in others)
    await post(world, meter.account.key, rows(first, "1", "2"))
    content = (
        "meter_id,meter_number,start_at,consumption\n"
        f"{first},,2024-05-01T00:00:00Z,1\n"
        f"{second},,2024-05-01T00:00:00Z,1\n"
        f",{NUMBERS[1]},2024-05-02T00:00:00Z,1\n"
        f",{METER_NUMBER},2024-05-01T00:30:00Z,2\n"
        f"{second},,2024-06-01T00:00:00Z,1\n"
    )
    response = await post(world, meter.account.key, content)
    assert response.json() == {"accepted": 5, "changed": 3, "meters": 3}
    told = [(one.data["meterId"], one.data["intervalCount"]) for one in await meter.received()]
    assert told == [(first, 2), (second, 2), (third, 1)]


async def test_one_fault_keeps_everything_out(world: World) -> None:
    meter = await metered(world)
    stranger = await metered(world)
    customer = await make_customer(world, meter.account, "b@example.com")
    bare = await make_meter(world, meter.account, customer, NUMBERS[0])
    good = rows(meter.meter_id, "1", "2")
    at = "2024-05-01T00:00:00Z,1\n"
    async with unchanged(world):
        for more, expected in (
            (f"{meter.meter_id},2024-05-01T01:00:00Z,-1\n", [(4, "OUT_OF_RANGE")]),
            (f"{stranger.meter_id},{at}", [(4, "NOT_FOUND")]),
            (f"nonsense,{at}mtr_\x00,{at}", [(4, "NOT_FOUND"), (5, "NOT_FOUND")]),
            (f"{bare['id']},{at}{bare['id']},2024-05-01T00:30:00Z,1\n", [(4, "CONSENT_REQUIRED")]),
        ):
            assert refused(await post(world, meter.account.key, good + more)) == expected


async def test_texts_that_no_database_stores_are_not_found(world: World) -> None:
    meter = await metered(world)
    line = '{"meter_id": "mtr_%s", "start_at": "2024-05-01T00:00:00Z", "consumption": 1}\n'
    async with unchanged(world):
        for text in ("\\u0000", "\\ud800", "é"):
            response = await post(world, meter.account.key, (line % text).encode(), NDJSON)
            assert refused(response) == [(1, "NOT_FOUND")]


async def test_a_number_must_be_one_meter(world: World) -> None:
    meter = await metered(world)
    other = await make_customer(world, meter.account, "b@example.com")
    await make_consent(world, meter.account, other)
    await make_meter(world, meter.account, other, METER_NUMBER)
    content = f"meter_number,start_at,consumption\n{METER_NUMBER},2024-05-01T00:00:00Z,1\n"
    async with unchanged(world):
        assert refused(await post(world, meter.account.key, content)) == [(2, "CONFLICT")]
        missing = content.replace(METER_NUMBER, NUMBERS[0])
        assert refused(await post(world, meter.account.key, missing)) == [(2, "NOT_FOUND")]
        wrong = content.replace(METER_NUMBER, "2499999999990")
        assert refused(await post(world, meter.account.key, wrong)) == [(2, "INVALID_METER_NUMBER")]


async def test_a_half_hour_given_by_id_and_by_number_is_given_twice(world: World) -> None:
    meter = await metered(world)
    content = (
        "meter_id,meter_number,start_at,consumption\n"
        f"{meter.meter_id},,2024-05-01T00:00:00Z,1\n,{METER_NUMBER},2024-05-01T00:00:00Z,1\n"
    )
    async with unchanged(world):
        assert refused(await post(world, meter.account.key, content)) == [(3, "INVALID")]


async def test_an_idempotency_key_acts_once(world: World) -> None:
    meter = await metered(world)
    content = rows(meter.meter_id, "1", "2")
    first = await post(world, meter.account.key, content, idempotency_key="night 1")
    await post(world, meter.account.key, rows(meter.meter_id, "5", "6"))
    async with unchanged(world):
        # The same upload counts as the same input, compressed or not.
        again = await post(
            world,
            meter.account.key,
            gzip.compress(content.encode()),
            idempotency_key="night 1",
            content_encoding="gzip",
        )
        assert again.json() == first.json() == {"accepted": 2, "changed": 2, "meters": 1}
        other = await post(world, meter.account.key, content + "\n", idempotency_key="night 1")
        assert refused(other) == [(1, "IDEMPOTENCY_KEY_REUSED")]
        for key in ("", "k" * 256):
            response = await post(world, meter.account.key, content, idempotency_key=key)
            assert (response.status_code, response.json()["code"]) == (400, "TOO_LONG")
    wrong = rows(meter.meter_id, "-1")
    assert (await post(world, meter.account.key, wrong, idempotency_key="k" * 255)).status_code == 422
    # A refused upload may be sent again under its key.
    right = await post(world, meter.account.key, rows(meter.meter_id, "9"), idempotency_key="k" * 255)
    assert right.json() == {"accepted": 1, "changed": 1, "meters": 1}


@pytest.mark.both_databases
async def test_concurrent_twins_act_once(world: World) -> None:
    meter = await metered(world)
    content = rows(meter.meter_id, "1", "2", "3")
    responses = await asyncio.gather(
        *(post(world, meter.account.key, content, idempotency_key="twin") for _ in range(4))
    )
    assert [one.json() for one in responses] == [{"accepted": 3, "changed": 3, "meters": 1}] * 4
    assert [one.data["intervalCount"] for one in await meter.received()] == [3]


async def test_who_may_send(world: World) -> None:
    meter, other = await metered(world), await world.account()
    admin = (await world.authenticator.authenticate(meter.account.key)).actor
    async with world.database.transaction() as session:
        _, reads = await accounts.create_api_key(session, admin, name="Reads", scopes=[Scope.READ])
        token, _until = await accounts.create_stream_token(session, admin, world.services.keyring)
    async with unchanged(world):
        for key, status, code in (
            (None, 401, "UNAUTHENTICATED"),
            ("vw_live_wrong", 401, "UNAUTHENTICATED"),
            ("", 401, "UNAUTHENTICATED"),
            (reads, 403, "FORBIDDEN"),
            (token, 403, "FORBIDDEN"),
        ):
            # The request is refused before its body is read.
            response = await post(world, key, b"\xff", "image/png")
            assert (response.status_code, response.json()["code"]) == (status, code)
            assert ("www-authenticate" in response.headers) == (status == 401)
        response = await post(world, other.key, rows(meter.meter_id, "1"))
        assert refused(response) == [(2, "NOT_FOUND")]


async def test_what_is_not_an_upload_is_refused(world: World) -> None:
    meter = await metered(world)
    key, good = meter.account.key, rows(meter.meter_id, "1").encode()
    packed = gzip.compress(good)
    async with unchanged(world):
        for content, media_type, encoding, status in (
            (good, "application/json", "identity", 415),
            (good, "", "identity", 415),
            (good, CSV, "br", 415),
            (good, CSV, "gzip", 400),
            (packed[:-4], CSV, "gzip", 400),
            (packed + b"more", CSV, "gzip", 400),
            (packed + gzip.compress(b"") * 200, CSV, "gzip", 400),
        ):
            response = await post(world, key, content, media_type, content_encoding=encoding)
            assert response.status_code == status, content[:20]
        async with client(world) as opened:
            response = await opened.get("/readings", headers={"x-api-key": key})
            assert (response.status_code, response.headers["allow"]) == (405, "POST")
    several = gzip.compress(HEADER.encode()) + gzip.compress(good.removeprefix(HEADER.encode()))
    response = await post(world, key, several, "text/csv; charset=utf-8", content_encoding="GZIP")
    assert response.json() == {"accepted": 1, "changed": 1, "meters": 1}


async def test_a_body_too_large_is_refused_packed_or_not(world: World) -> None:
    meter = await metered(world)
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as packing:
        for _ in range(bulk.MAX_BYTES // 2**20 + 1):
            packing.write(b" " * 2**20)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(bulk.MAX_BYTES // 2**20 + 1):
            yield b" " * 2**20

    async with unchanged(world):
        for content, encoding in ((endless(), "identity"), (bomb.getvalue(), "gzip")):
            response = await post(world, meter.account.key, content, content_encoding=encoding)
            assert (response.status_code, response.json()["code"]) == (413, "TOO_LONG")
        async with client(world) as opened:
            headers = {
                "x-api-key": meter.account.key,
                "content-type": CSV,
                "content-length": str(bulk.MAX_BYTES + 1),
            }
            response = await opened.post("/readings", content=b"", headers=headers)
            assert response.status_code == 413


async def test_more_rows_than_allowed_are_refused(world: World) -> None:
    meter = await metered(world)
    many = "\n".join(
        ["meter_id,start_at,consumption", *(f"m{at},2024-05-01T00:00Z,1" for at in range(MAX_ROWS + 1))]
    )
    async with unchanged(world):
        assert refused(await post(world, meter.account.key, many)) == [(MAX_ROWS + 2, "LIMIT_REACHED")]


async def test_nearly_a_hundred_thousand_rows_go_in_at_once(world: World) -> None:
    meter = await metered(world)
    start = [f"{2012 + at // 12}-{at % 12 + 1:02}-{day:02}" for at in range(144) for day in range(1, 15)]
    content = HEADER + "".join(
        f"{meter.meter_id},{day}T{half // 2:02}:{half % 2 * 30:02}:00Z,0.{half}\n"
        for day in start
        for half in range(48)
    )
    accepted = len(start) * 48
    response = await post(world, meter.account.key, content)
    assert response.json() == {"accepted": accepted, "changed": accepted, "meters": 1}
    assert [one.data["intervalCount"] for one in await meter.received()] == [accepted]


async def test_over_the_rate_it_says_when_to_come_back(world: World) -> None:
    meter = await metered(world)
    content = rows(meter.meter_id, "1")
    async with client(world, rate=1) as opened:
        headers = {"x-api-key": meter.account.key, "content-type": CSV}
        statuses = [(await opened.post("/readings", content=content, headers=headers)) for _ in range(2)]
    assert [one.status_code for one in statuses] == [200, 429]
    assert statuses[1].json()["code"] == "RATE_LIMITED"
    assert statuses[1].headers["retry-after"] == "1"


async def test_a_client_that_goes_away_leaves_nothing(world: World) -> None:
    meter = await metered(world)
    app = Starlette(routes=bulk.routes(world.services, world.authenticator, Rates(1000)))
    headers = [(b"x-api-key", meter.account.key.encode()), (b"content-type", b"text/csv")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/readings",
        "raw_path": b"/readings",
        "query_string": b"",
        "headers": headers,
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "http_version": "1.1",
    }
    messages = iter(
        [
            {"type": "http.request", "body": rows(meter.meter_id, "1").encode(), "more_body": True},
            {"type": "http.disconnect"},
        ]
    )
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    async with unchanged(world):
        await app(scope, receive, send)
    assert sent[0]["status"] == 400
