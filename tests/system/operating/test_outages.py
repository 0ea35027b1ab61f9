"""Processes whose database is away: at their start, and under requests."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from tests.services.postgres import Postgres
from tests.services.valkey import Valkey
from tests.system.clients import Api, eventually
from tests.system.deployment import Process, Role, deployed

README = Path(__file__).parents[3] / "README.md"
QUERY = {"query": "{ viewer { scopes } }"}
KEY = "vw_live_" + "a" * 43


class Probed(Process):
    """Answers /readyz, workers too; it has started when it answers this status."""

    started_as = 200

    def arguments(self) -> list[str]:
        return [self.role, "--port", str(self.port)]

    def is_ready(self) -> bool:
        return self.readiness() == self.started_as


class Waiting(Probed):
    started_as = 503


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that only this test hurts."""
    server = Postgres()
    server.start()
    yield server
    server.close()


def lines(process: Process, event: str) -> list[dict[str, object]]:
    return [record for record in process.records() if record.get("event") == event]


async def test_processes_start_without_database_and_broadcaster_and_come_up_by_themselves(
    own_postgres: Postgres, tmp_path: Path
) -> None:
    url = await own_postgres.create_database()
    own_postgres.stop()
    valkey = Valkey()
    try:
        roles: list[Role] = ["api", "worker", "serve"]
        async with deployed(roles, tmp_path, url, valkey.url, kind=Waiting) as deployment:
            for process in deployment.processes:
                async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
                    answer = (await http.get("/readyz")).json()
                    assert (answer["database"], answer["broadcaster"]) == (False, False)
                    assert answer["reason"].startswith("The database cannot be used (")
                    assert answer["reason"].endswith("The broadcaster cannot be reached.")
                    assert "127.0.0.1" not in answer["reason"]
                    assert (await http.get("/healthz")).status_code == 200
                    if process.role == "worker":
                        assert (await http.post("/graphql", json=QUERY)).status_code == 404
                        continue
                    refused = await http.post("/graphql", json=QUERY, headers={"x-api-key": KEY})
                    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                    [error] = refused.json()["errors"]
                    assert (error["extensions"]["code"], error["extensions"]["retryAfter"]) == ("INTERNAL", 5)
                    page = await http.get(f"/consents/vw_consent_{'a' * 43}")
                    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
                async with websockets.connect(
                    process.socket_url, subprotocols=[websockets.Subprotocol("graphql-transport-ws")]
                ) as socket:
                    await socket.send('{"type":"connection_init","payload":{"apiKey":"' + KEY + '"}}')
                    with pytest.raises(websockets.ConnectionClosed):
                        await socket.recv()
                    assert socket.close_code == 1013
            own_postgres.start()
            valkey.start()

            async def all_up() -> bool:
                asked = [await asyncio.to_thread(one.readiness) for one in deployment.processes]
                return all(status == 200 for status in asked)

            await eventually(all_up)
            account = await deployment.account()
            async with Api(deployment.processes[0].url, account.key) as api:
                await api.mutate("createCustomer", "customer { id }", name="Ada", email="ada@example.com")
                assert await api.last_sequence() == 2
            for process in deployment.processes:
                assert lines(process, "database_is_there")
                assert lines(process, "database_unavailable")[0]["during"] == {"migrating at start": 1}
    finally:
        valkey.close()


@pytest.mark.parametrize("role", ["api", "worker", "serve"])
async def test_a_process_that_waits_ends_when_it_is_told_to(
    own_postgres: Postgres, tmp_path: Path, role: Role
) -> None:
    url = await own_postgres.create_database()
    own_postgres.stop()
    async with deployed([role], tmp_path, url, kind=Waiting) as deployment:
        assert await deployment.processes[0].terminate() == 0


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_server_that_refuses_ends_the_start(
    own_postgres: Postgres, tmp_path: Path, role: str
) -> None:
    async with deployed(
        [], tmp_path, own_postgres.url("nowhere"), public_url="http://127.0.0.1"
    ) as deployment:
        with pytest.raises(Exception, match='the database cannot be used: database "nowhere" does not exist'):
            await deployment.command(role)


async def test_an_outage_is_a_line_in_the_log_and_503_for_every_request(
    own_postgres: Postgres, tmp_path: Path
) -> None:
    url = await own_postgres.create_database()
    async with deployed(["api"], tmp_path, url, kind=Probed) as deployment:
        [process] = deployment.processes
        account = await deployment.account()
        async with Api(process.url, account.key) as api:
            before = await api.last_sequence()
            own_postgres.kill()
            answers = [await api.http.post("/graphql", json=QUERY) for _ in range(100)]
            # The key's last read counts a moment longer.
            failed = [one for one in answers if one.status_code != 200]
            assert {(one.status_code, one.headers["retry-after"]) for one in failed} == {(503, "5")}
            messages = {one.json()["errors"][0]["message"] for one in failed}
            assert messages == {
                "The database cannot be reached at the moment; send this again in a few seconds."
            }
            bulk = await api.http.post(
                "/readings", content=b"{}", headers={"content-type": "application/x-ndjson"}
            )
            assert (bulk.status_code, bulk.headers["retry-after"]) == (503, "5")
            [line] = lines(process, "database_unavailable")
            assert {one.json()["errors"][0]["extensions"]["id"] for one in failed} == {line["error_id"]}
            assert "Traceback" not in process.log.read_text()
            own_postgres.start()
            assert await api.last_sequence() == before


async def test_every_metric_of_the_readme_is_scraped_where_it_says(
    postgres_url: str, valkey: Valkey, tmp_path: Path
) -> None:
    """Its scaled-out layout: two API processes and two workers over PostgreSQL and Valkey."""
    section = README.read_text().split("## Scaling out")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `voltwire_"))
    of_workers = set(re.findall(r"voltwire_\w+", table))
    of_apis = set(re.findall(r"voltwire_\w+", section)) - of_workers
    assert (len(of_workers), len(of_apis)) == (18, 5)
    roles: list[Role] = ["api", "api", "worker", "worker"]
    async with deployed(roles, tmp_path, postgres_url, valkey.url, kind=Probed) as deployment:
        for process in deployment.processes:
            async with httpx.AsyncClient(base_url=process.url, trust_env=False) as http:
                text = (await http.get("/metrics")).text
            told = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
            missing = (of_workers if process.role == "worker" else of_apis) - told
            assert missing == set(), process.role
