"""An event that a feature adds in one file shows everywhere, without a change elsewhere."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.system.deployment import clean_environment

FEATURE = Path(__file__).with_name("new_event.py")


async def test_a_new_event_shows_everywhere() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(FEATURE)),
        cwd=FEATURE.parents[2],
        env=clean_environment(),
        stdout=PIPE,
        stderr=STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
