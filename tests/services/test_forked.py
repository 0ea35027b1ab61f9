"""Forked programs: output, exit codes and signals."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.services.forked import VOLTWIRE, Forked, Piped
from tests.services.patience import PATIENCE

pytestmark = pytest.mark.long


async def test_a_program_has_its_own_arguments_and_environment() -> None:
    shown = await Piped.start(VOLTWIRE, "--version", environment={})
    output, errors = await shown.communicate()
    assert output.startswith(b"voltwire ")
    assert (errors, shown.returncode) == (b"", 0)
    refused = await Piped.start(VOLTWIRE, "api", environment={"VOLTWIRE_RATE_LIMIT": "none"})
    output, errors = await refused.communicate()
    assert refused.returncode == 1
    assert b"VOLTWIRE_RATE_LIMIT" in output + errors


async def test_a_program_takes_signals_and_is_waited_for(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        programs = [
            Forked(
                VOLTWIRE, "serve", "--port", "0",
                environment={"VOLTWIRE_DATA_DIR": str(tmp_path / f"{number}")}, stdout=log, stderr=log,
            )
            for number in range(2)
        ]  # fmt: skip
    killed, ended = programs
    assert os.getsid(killed.pid) == killed.pid
    assert killed.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(0.01)
    waiting = asyncio.create_task(asyncio.to_thread(killed.wait))
    killed.kill()
    assert await waiting == killed.poll() == -signal.SIGKILL
    ended.terminate()
    assert ended.wait() in (0, -signal.SIGTERM)
    ended.kill()


async def test_no_program_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    code = (
        f"import time\nENVIRONMENT = {{'VOLTWIRE_DATA_DIR': {str(tmp_path)!r}}}\n"
        "from tests.services.forked import VOLTWIRE, Forked\n"
        "program = Forked(VOLTWIRE, 'serve', '--port', '0', environment=ENVIRONMENT, stdout=2, stderr=2)\n"
        "print(program.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert run.stdout is not None
    program = psutil.Process(int(await run.stdout.readline()))
    run.kill()
    await run.wait()
    assert await asyncio.to_thread(psutil.wait_procs, [program], PATIENCE) == ([program], [])
