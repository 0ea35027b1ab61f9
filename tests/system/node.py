"""JavaScript clients, where node and their packages are there."""

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
async def node_script(
    script: str, folder: Path, *arguments: str, package: str = "graphql-ws"
) -> AsyncIterator[Process]:
    """A running script that may import the package, its output in a pipe. Skips the test where it cannot run."""
    node, modules = require_node(package)
    (folder / "node_modules").symlink_to(modules, target_is_directory=True)
    file = folder / "client.mjs"
    file.write_text(PREAMBLE + script)
    running = await asyncio.create_subprocess_exec(
        node, "--preserve-symlinks", file, *arguments, stdin=PIPE, stdout=PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


def require_node(package: str) -> tuple[str, Path]:
    """The program, and a `node_modules` that holds the package; where there is none, the test is skipped."""
    node, modules = shutil.which("node"), _modules(package)
    if node is None or modules is None:
        pytest.skip(f"needs node, and the {package} package in node_modules or on NODE_PATH")
    return node, modules


def _modules(package: str) -> Path | None:
    """A `node_modules` that holds the package: of this checkout, or named by NODE_PATH."""
    places = [Path(__file__).parents[2] / "node_modules"]
    places += [Path(one) for one in os.environ.get("NODE_PATH", "").split(os.pathsep) if one]
    return next((place for place in places if (place / package).is_dir()), None)
