"""Metrics are for the operator's own networks, and for no client behind a proxy."""

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event

from app.core.settings import Settings
from app.server.main import create_probes
from app.server.process import Process

SECRET = "a secret key that only the tests use"


async def status(folder: Path, peer: str, headers: dict[str, str], **settings: str) -> int:
    chosen = Settings(data_dir=folder, secret_key=SECRET, **settings)  # type: ignore[arg-type]
    process = Process(chosen, public_url="http://127.0.0.1", with_worker=False)
    transport = httpx.ASGITransport(create_probes(process), client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://voltwire") as http:
        answer = await http.get("/metrics", headers=headers)
    await process.services.database.dispose()
    if answer.status_code == 404:
        assert answer.json()["code"] == "NOT_FOUND"
    return answer.status_code


@pytest.mark.parametrize(
    "peer", ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"]
)
async def test_private_networks_may_read(tmp_path: Path, peer: str) -> None:
    assert await status(tmp_path, peer, {}) == 200


@pytest.mark.parametrize("peer", ["8.8.8.8", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8", "testclient"])
async def test_others_find_nothing(tmp_path: Path, peer: str) -> None:
    assert await status(tmp_path, peer, {}) == 404


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP"]
)
async def test_nobody_reads_through_a_proxy(tmp_path: Path, header: str) -> None:
    assert await status(tmp_path, "127.0.0.1", {header: "127.0.0.1"}) == 404


async def test_a_trusted_proxy_itself_finds_nothing_either(tmp_path: Path) -> None:
    assert await status(tmp_path, "10.0.0.7", {}, trusted_proxies="10.0.0.0/24") == 404
    assert await status(tmp_path, "10.0.1.7", {}, trusted_proxies="10.0.0.0/24") == 200


async def test_the_networks_are_a_setting(tmp_path: Path) -> None:
    assert await status(tmp_path, "203.0.113.9", {}, metrics_networks="203.0.113.0/24") == 200
    assert await status(tmp_path, "127.0.0.1", {}, metrics_networks="203.0.113.0/24") == 404


async def test_requests_for_readiness_at_one_time_share_one_check(tmp_path: Path) -> None:
    chosen = Settings(data_dir=tmp_path, secret_key=SECRET)
    process = Process(chosen, public_url="http://127.0.0.1", with_worker=False)
    checks: list[str] = []
    readers = process.services.database._readers.sync_engine
    event.listen(readers, "before_cursor_execute", lambda *about: checks.append(about[2]))
    transport = httpx.ASGITransport(create_probes(process))
    async with httpx.AsyncClient(transport=transport, base_url="http://voltwire") as http:
        for round_ in (1, 2):
            answers = await asyncio.gather(*(http.get("/readyz") for _ in range(50)))
            assert {answer.json()["database"] for answer in answers} == {True}
            assert checks == ["SELECT 1"] * round_
    await process.services.database.dispose()
