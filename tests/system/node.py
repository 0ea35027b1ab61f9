"""JavaScript clients, where node and the graphql-ws package are there."""

import asyncio
import contextlib
import os
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

# Before version 22, node has no WebSocket of its own.
PREAMBLE = """
if (!globalThis.WebSocket) globalThis.WebSocket = (await import("ws")).default;
"""


@contextlib.asynccontextmanager
async def node_script(script: str, folder: Path, *arguments: str) -> AsyncIterator[Process]:
    """A running script that may import graphql-ws, its output in a pipe. Skips the test where it cannot run."""
    node, modules = shutil.which("node"), _modules()
    if node is None or modules is None:
        pytest.skip("needs node, and the graphql-ws package in node_modules or on NODE_PATH")
    (folder / "node_modules").symlink_to(modules, target_is_directory=True)
    file = folder / "client.mjs"
    file.write_text(PREAMBLE + script)
    running = await asyncio.create_subprocess_exec(node, "--preserve-symlinks", file, *arguments, stdout=PIPE)
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


def _modules() -> Path | None:
    """A `node_modules` that holds graphql-ws: of this checkout, or named by NODE_PATH."""
    places = [Path(__file__).parents[2] / "node_modules"]
    places += [Path(one) for one in os.environ.get("NODE_PATH", "").split(os.pathsep) if one]
    return next((place for place in places if (place / "graphql-ws").is_dir()), None)
