"""Helpers for tests of the operators' commands: accounts without a command each, and running the program."""

import asyncio
from asyncio.subprocess import PIPE, Process

from tests.system.deployment import PROGRAM, Deployment


async def fresh_key(served: Deployment) -> str:
    """The API key of a new account."""
    return (await served.account()).key


async def start(served: Deployment, *arguments: str, key: str | None = None) -> Process:
    """`voltwire …`, its key in the environment."""
    environment = served.environment | ({"VOLTWIRE_API_KEY": key} if key else {})
    return await asyncio.create_subprocess_exec(
        PROGRAM, *arguments, env=environment, stdout=PIPE, stderr=PIPE
    )


async def run(served: Deployment, *arguments: str, key: str | None = None) -> tuple[int | None, str, str]:
    """Exit code, output and errors of `voltwire …`."""
    process = await start(served, *arguments, key=key)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
