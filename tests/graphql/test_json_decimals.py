"""JSON numbers of decimals keep all digits or are refused, by each way into the API."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import websockets
from starlette.applications import Starlette

from app.graphql.http.rates import Rates
from app.readings import bulk
from tests.accounts.state import unchanged
from tests.graphql.serving import Serving, serving
from tests.readings.metered import RECORD, Metered, metered
from tests.services.patience import PATIENCE
from tests.support import World

MIDNIGHT = "2024-05-01T00:00:00Z"
EXACT = {
    "30411275102.207999": "30411275102.207999",
    "123456789012.123456": "123456789012.123456",
    "8589934592.000001": "8589934592.000001",
    "0.1": "0.1",
    "1.5e3": "1500",
    "2500E-3": "2.5",
    "7": "7",
}
REFUSED = [
    "30411275102.2079990",
    "0.1000000000000000055",
    "9007199254740993.0",
    "1e12",
    "1e400",
    "1e-400",
    "1e9999999999999999999999",
    "1e-9999999999999999999999",
    "0e9999999999999999999999",
]


@pytest.fixture
async def served(small_world: World) -> AsyncIterator[Serving]:
    async with serving(small_world) as running:
        yield running


def with_number(template: object, number: str) -> bytes:
    return json.dumps(template).replace('"HERE"', number).encode()


def given(meter: Metered, consumption: str) -> dict[str, object]:
    return {"meterId": meter.meter_id, "readings": [{"startAt": MIDNIGHT, "consumption": consumption}]}


def literal(meter: Metered, consumption: str) -> str:
    return (
        f'mutation {{ recordReadings(input: {{meterId: "{meter.meter_id}", readings: '
        f'[{{startAt: "{MIDNIGHT}", consumption: {consumption}}}]}}) {{ changed userErrors {{ code }} }} }}'
    )


def default(meter: Metered, consumption: str) -> str:
    return (
        f"mutation ($meter: ID!, $read: Decimal! = {consumption}) {{ recordReadings(input: {{meterId: $meter, "
        f'readings: [{{startAt: "{MIDNIGHT}", consumption: $read}}]}}) {{ changed userErrors {{ code }} }} }}'
    )


async def over_http(served: Serving, meter: Metered, request: object, number: str) -> bool:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        headers = {"x-api-key": meter.account.key, "content-type": "application/json"}
        answer = await client.post(served.http_url, content=with_number(request, number), headers=headers)
    assert answer.status_code in (200, 400)
    return "errors" not in answer.json()


async def http_variable(served: Serving, meter: Metered, number: str) -> bool:
    request = {"query": RECORD, "variables": {"input": given(meter, "HERE")}}
    return await over_http(served, meter, request, number)


async def http_literal(served: Serving, meter: Metered, number: str) -> bool:
    return await over_http(served, meter, {"query": literal(meter, number)}, number)


async def http_default(served: Serving, meter: Metered, number: str) -> bool:
    request = {"query": default(meter, number), "variables": {"meter": meter.meter_id}}
    return await over_http(served, meter, request, number)


async def over_socket(served: Serving, meter: Metered, payload: object, number: str) -> bool:
    async with served.connect(meter.account.key) as client:
        message = {"type": "subscribe", "id": "1", "payload": payload}
        await client.connection.send(with_number(message, number).decode())
        try:
            heard = await client.hear()
        except websockets.ConnectionClosed:
            return False
        return heard["type"] == "next" and "errors" not in heard["payload"]


async def socket_variable(served: Serving, meter: Metered, number: str) -> bool:
    payload = {"query": RECORD, "variables": {"input": given(meter, "HERE")}}
    return await over_socket(served, meter, payload, number)


async def socket_literal(served: Serving, meter: Metered, number: str) -> bool:
    return await over_socket(served, meter, {"query": literal(meter, number)}, number)


async def ndjson(served: Serving, meter: Metered, number: str) -> bool:
    world = served.world
    app = Starlette(routes=bulk.routes(world.services, world.authenticator, Rates(1000)))
    row = {"meter_id": meter.meter_id, "start_at": MIDNIGHT, "consumption": "HERE"}
    headers = {"x-api-key": meter.account.key, "content-type": "application/x-ndjson"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        answer = await client.post("/readings", content=with_number(row, number), headers=headers)
    assert answer.status_code in (200, 422)
    return answer.status_code == 200


WAYS = [http_variable, http_literal, http_default, socket_variable, socket_literal, ndjson]
Way = Callable[[Serving, Metered, str], Awaitable[bool]]


@pytest.mark.parametrize("way", WAYS)
async def test_a_number_is_taken_to_its_last_digit(served: Serving, way: Way) -> None:
    meter = await metered(served.world)
    for number, total in EXACT.items():
        assert await way(served, meter, number), number
        assert (await meter.intervals())["total"] == total


async def test_an_endless_integer_is_told_from_broken_json(served: Serving) -> None:
    meter = await metered(served.world)
    request = {"query": "query ($first: Int) { customers(first: $first) { nodes { id } } }"}
    sent = with_number({**request, "variables": {"first": "HERE"}}, "9" * 5000)
    headers = {"x-api-key": meter.account.key, "content-type": "application/json"}
    variables = {**request, "variables": '{"first": ' + "9" * 5000 + "}"}
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        answers = [
            await client.post(served.http_url, content=sent, headers=headers),
            await client.get(served.http_url, params=variables, headers=headers),
            await client.post(served.http_url, content=b'{"query": NaN}', headers=headers),
            await client.post(served.http_url, content=b'{"query": "\xff"}', headers=headers),
        ]
    assert [answer.json()["errors"][0]["message"] for answer in answers] == [
        "The body has a number that is out of range.",
        "The variables has a number that is out of range.",
        "The body is not valid JSON.",
        "The body is not valid JSON.",
    ]
    async with served.connect(meter.account.key) as socket:
        await socket.connection.send(
            with_number({"type": "ping", "payload": {"a": "HERE"}}, "9" * 5000).decode()
        )
        assert await socket.closed() == (4400, "A message has a number that is out of range")


@pytest.mark.parametrize("way", WAYS)
async def test_a_number_with_too_many_digits_or_beyond_range_is_refused(served: Serving, way: Way) -> None:
    meter = await metered(served.world)
    for number in REFUSED:
        async with unchanged(served.world):
            assert not await way(served, meter, number), number
