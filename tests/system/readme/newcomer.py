"""Someone who follows the README to the letter, and the commands that they type."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tests.system.deployment import PROGRAM, Deployment
from tests.system.readme.text import commands


@dataclass(frozen=True)
class Newcomer:
    """Someone who follows the README to the letter, with the address of a server that is already running."""

    deployment: Deployment
    key: str

    @property
    def url(self) -> str:
        return self.deployment.apis[0].url

    def command(self, heading: str, number: int, **replaced: str) -> str:
        """The n-th command of the shell blocks under a heading; commands are set apart by an empty line."""
        command = commands(heading)[number].replace("http://127.0.0.1:8000", self.url)
        command = command.replace(".venv/bin/voltwire", str(PROGRAM)).replace(
            ".venv/bin/python", sys.executable
        )
        for old, new in replaced.items():
            assert command.count(old) == 1
            command = command.replace(old, new)
        return command

    @contextlib.asynccontextmanager
    async def running(self, command: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = self.deployment.environment | {"KEY": self.key} | variables
        process = await asyncio.create_subprocess_shell(f"exec env {command}", env=environment, stdout=PIPE)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def output(self, command: str, **variables: str) -> Any:
        """The output of a curl command, as JSON."""
        async with self.running(command, **variables) as process:
            output, _ = await process.communicate()
        return json.loads(output)

    async def answer(self, command: str, **variables: str) -> dict[str, Any]:
        """The data of what a curl command prints; there must be no errors."""
        answer = await self.output(command, **variables)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data
