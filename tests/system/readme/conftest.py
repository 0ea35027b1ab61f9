"""The newcomer of a module's server."""

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE

import pytest

from tests.system.deployment import PROGRAM, Deployment
from tests.system.readme.newcomer import Newcomer
from tests.system.readme.text import BLOCKS


@pytest.fixture(scope="module")
async def newcomer(served: Deployment) -> Newcomer:
    """A newcomer with an account, for the tests of a module. Without curl they are skipped."""
    return await arrived(served)


@pytest.fixture
async def first(served: Deployment) -> Newcomer:
    """A newcomer whose account has seen no test yet."""
    return await arrived(served)


async def arrived(served: Deployment) -> Newcomer:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    create = BLOCKS["Quick start"][2][1].splitlines()[0]
    assert create == '.venv/bin/voltwire accounts create "Acme Energy" --email ops@acme.example'
    process = await asyncio.create_subprocess_shell(
        create.replace(".venv/bin/voltwire", str(PROGRAM)), env=served.environment, stdout=PIPE
    )
    output, _ = await process.communicate()
    made = json.loads(output)
    assert list(made) == ["accountId", "userId", "apiKey"]
    served.secrets.append(made["apiKey"])
    return Newcomer(served, made["apiKey"])
