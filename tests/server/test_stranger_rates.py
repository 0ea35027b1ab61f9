"""Every route counts a stranger's request for its address first, and answers with 429 above the rate."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from app.core.settings import Settings
from app.graphql.http.rates import Rates
from app.server.main import create_app
from app.server.process import Process

SECRET = "a secret key that only the tests use"
AT_ONCE = 3
OUTSIDE = "198.51.100.7"

Client = Callable[[str], httpx.AsyncClient]


@asynccontextmanager
async def strangers(folder: Path) -> AsyncIterator[Client]:
    """Makes clients by their addresses, of a server on which time stands still."""
    settings = Settings(data_dir=folder, secret_key=SECRET)
    process = Process(settings, public_url="http://voltwire", with_worker=False)
    process.rates = Rates(100, clock=lambda: 0.0, strangers_at_once=AT_ONCE)
    app = create_app(process)

    def client(address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 4711))
        return httpx.AsyncClient(transport=transport, base_url="http://voltwire")

    yield client
    await process.services.database.dispose()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/?event=evt_01hzy3v7q8r9s0t1v2w3x4y5z6", 200),
        ("GET", "/schema.graphql", 200),
        ("GET", "/static/start.css", 200),
        ("GET", "/static/nowhere.css", 404),
        ("GET", "/metrics", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/", 405),
        ("DELETE", "/static/start.css", 405),
        ("GET", "/readings", 405),
        ("POST", "/readings", 401),
        ("GET", "/hosted-consents/hc_01hzy3v7q8r9s0t1v2w3x4y5z6/evidence", 401),
        ("PUT", "/hosted-consents/hc_01hzy3v7q8r9s0t1v2w3x4y5z6/evidence", 401),
    ],
)
async def test_a_stranger_is_told_to_wait(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with strangers(tmp_path) as client, client(OUTSIDE) as http, client("198.51.100.8") as other:
        for _ in range(AT_ONCE):
            assert (await http.request(method, path)).status_code == status
        refused = await http.request(method, path)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await other.request(method, path)).status_code == status


async def test_one_bucket_counts_all_routes(tmp_path: Path) -> None:
    async with strangers(tmp_path) as client, client(OUTSIDE) as http:
        for path in ("/", "/static/nowhere.css", "/nowhere"):
            assert (await http.get(path)).status_code != 429
        for path in ("/", "/nowhere", "/graphql?query={__typename}", "/email-subscriptions/confirm/x"):
            assert (await http.get(path)).status_code == 429


async def test_a_refusal_is_json_for_programs_and_a_page_for_browsers(tmp_path: Path) -> None:
    async with strangers(tmp_path) as client, client(OUTSIDE) as http:
        for _ in range(AT_ONCE):
            await http.get("/nowhere")
        told = await http.get("/nowhere")
        assert told.json() == {"code": "RATE_LIMITED", "message": "Too many requests; try again in 1 s."}
        shown = await http.get("/nowhere", headers={"accept": "text/html"})
        assert "<h1>Too many requests</h1>" in shown.text


async def test_probes_and_scrapes_of_the_operator_are_never_held_up(tmp_path: Path) -> None:
    async with strangers(tmp_path) as client, client("127.0.0.1") as http:
        for path in ("/healthz", "/metrics"):
            for _ in range(AT_ONCE + 2):
                assert (await http.get(path)).status_code == 200


async def test_plain_answers_end_with_a_line(tmp_path: Path) -> None:
    async with strangers(tmp_path) as client, client("127.0.0.1") as http:
        for path, accept in (
            ("/healthz", "*/*"),
            ("/readyz", "*/*"),
            ("/nowhere", "*/*"),
            ("/readings", "*/*"),
            ("/graphql", "image/png"),
        ):
            answer = await http.get(path, headers={"accept": accept})
            assert answer.text.endswith("\n"), path
            assert not answer.text.endswith("\n\n"), path
