"""Programs' requests skip the middleware for pages, and are answered as those of an allowed page."""

from typing import Any

import httpx
import pytest

from app.server.main import create_app
from app.server.process import Process
from tests.support import World

JSON = "application/json"
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("POST", {"json": {"query": "{ viewer { account { name } } }"}}),
    ("POST", {"json": {"query": "{ viewer { nothing } }"}}),
    ("POST", {"json": {"query": 'mutation { deleteCustomer(input: {customerId: "cus_x"}) { deletedId } }'}}),
    ("POST", {"content": "{", "headers": {"content-type": JSON}}),
    ("POST", {"content": "{}", "headers": {"content-type": "text/plain"}}),
    ("POST", {"json": {"query": "{ __typename }"}, "headers": {"accept": "image/png"}}),
    ("GET", {"params": {"query": "{ viewer { account { name } } }"}}),
    ("GET", {"params": {"query": "mutation { __typename }"}}),
    ("GET", {"headers": {"accept": "text/html"}}),
    ("HEAD", {"params": {"query": "{ __typename }"}}),
    ("PUT", {"content": "{}"}),
    ("OPTIONS", {}),
]


@pytest.mark.parametrize("has_key", [True, False])
@pytest.mark.parametrize(
    ("method", "options"), REQUESTS, ids=[f"{n}-{one[0]}" for n, one in enumerate(REQUESTS)]
)
async def test_a_program_is_answered_as_a_page_of_an_allowed_origin(
    world: World, method: str, options: dict[str, Any], has_key: bool
) -> None:
    account = await world.account("Bright")
    process = Process(world.services.settings, public_url="http://127.0.0.1:8000", with_worker=False)
    transport = httpx.ASGITransport(create_app(process))
    headers = {
        "accept": JSON,
        **({"x-api-key": account.key} if has_key else {}),
        **options.get("headers", {}),
    }
    given = {**options, "headers": headers}
    async with (
        process.running(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        program = await client.request(method, "/graphql", **given)
        given["headers"] = {**headers, "origin": "http://127.0.0.1:8000"}
        page = await client.request(method, "/graphql", **given)
    assert (program.status_code, program.content) == (page.status_code, page.content)
    assert dict(program.headers) == dict(page.headers)
