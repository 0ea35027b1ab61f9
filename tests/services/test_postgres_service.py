"""The tests' PostgreSQL: fresh databases, faults, and nothing left behind."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.services.patience import PATIENCE
from tests.services.postgres import Postgres
from tests.services.process import ServiceError, sweep

pytestmark = pytest.mark.long


async def query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_fresh_database_is_empty_utf8_and_its_own(postgres: Postgres, postgres_url: str):
    assert postgres_url.startswith(f"postgresql://postgres@127.0.0.1:{postgres.port}/voltwire_")
    assert await query(postgres_url, "SHOW server_encoding") == "UTF8"
    assert await query(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    other = await postgres.create_database()
    await query(postgres_url, "CREATE TABLE here (n int)")
    assert await query(other, "SELECT to_regclass('here')::text") is None
    await postgres.drop_database(other)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await query(other, "SELECT 1")


async def test_a_database_can_be_a_copy_of_another(postgres: Postgres):
    original = await postgres.create_database()
    await query(original, "CREATE TABLE t AS SELECT 7 AS n")
    copy = await postgres.create_database(template=original.rpartition("/")[2])
    assert await query(copy, "SELECT n FROM t") == 7
    await postgres.drop_database(copy)
    await postgres.drop_database(original)


async def test_dropping_cuts_off_who_is_connected(postgres: Postgres):
    url = await postgres.create_database()
    connection = await asyncpg.connect(url)
    await postgres.drop_database(url)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()


async def test_what_is_committed_survives_stop_and_kill():
    server = Postgres()
    try:
        server.start()
        url = await server.create_database()
        await query(url, "CREATE TABLE t (n int)")
        await query(url, "INSERT INTO t VALUES (1)")
        server.stop()
        with pytest.raises(OSError):
            await query(url, "SELECT 1")
        server.start()
        await query(url, "INSERT INTO t VALUES (2)")
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) > 3
        server.kill()
        assert not any(member.is_running() for member in family)
        server.start()
        assert await query(url, "SELECT array_agg(n ORDER BY n) FROM t") == [1, 2]
        pid = server.pid
    finally:
        server.close()
    assert not psutil.pid_exists(pid)
    assert not server.folder.exists()
    server.close()


def test_a_server_that_cannot_start_says_why():
    server = Postgres()
    try:
        (server.data / "PG_VERSION").write_text("1\n")
        with pytest.raises(ServiceError, match="incompatible with server"):
            server.start()
        assert server.process is None
    finally:
        server.close()


def test_the_server_ends_with_a_killed_test_run():
    code = """
import os, signal
from tests.services.postgres import Postgres
server = Postgres()
server.start()
print(server.pid, *server.folders, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid, *folders = done.stdout.split()
    assert done.returncode == -signal.SIGKILL
    # The server and its watcher name a folder on their command lines.
    ours = [one for one in psutil.process_iter(["cmdline"]) if set(folders) & set(one.info["cmdline"] or ())]
    psutil.wait_procs(ours, timeout=PATIENCE)
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    assert [folder for folder in folders if Path(folder).exists()] == []


def test_a_server_without_run_and_watcher_is_swept_away():
    code = """
import os, signal
from tests.services.postgres import Postgres
server = Postgres(on_disk=True)
server.start()
print(server.pid, flush=True)
os.kill(server._watch.pid, signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""
    living = Postgres()
    # The server's user must be able to enter it.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        environment = os.environ | {"TMPDIR": place}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        server = psutil.Process(int(done.stdout))
        sweep(Path(place), *(folder.parent for folder in living.folders), settled=3600)
        assert server.is_running()
        assert len(list(Path(place).iterdir())) == 2
        sweep(Path(place), settled=0)
        psutil.wait_procs([server], timeout=PATIENCE)
        assert list(Path(place).iterdir()) == []
    assert all(folder.exists() for folder in living.folders)
    living.close()
