"""Checks another revision out into a temporary folder, ready to run, beside the one at work."""

import asyncio
import os
import signal
import sys
import tomllib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.report import Report
from scripts.benchmarks.harness.servers import ROOT, Checkout

LOCK = "requirements.lock"


@asynccontextmanager
async def checked_out(revision: str, report: Report) -> AsyncIterator[Checkout]:
    """The revision in a folder of its own until the block ends. Raises BenchError.

    It runs in this environment when both revisions lock the same packages, else in one that its own set-up makes.
    """
    commit = await run(
        "git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if not commit:
        raise BenchError(f"git knows no revision {revision!r}")
    with TemporaryDirectory(prefix="voltwire-bench-") as name:
        root = Path(name) / "checkout"
        root.mkdir()
        archive = root.with_suffix(".tar")
        await run("git", "archive", f"--output={archive}", commit.decode().strip())
        await run("tar", "-xf", str(archive), "-C", str(root))
        archive.unlink()
        if (root / LOCK).read_bytes() == (ROOT / LOCK).read_bytes():
            # Found before the checkout that the environment was made for.
            env = {"PYTHONPATH": str(root)}
            python = Path(sys.executable)
            program = own_program(root, python)
        else:
            report.progress(f"{revision} locks other packages: setting up an environment for it")
            env, python = {}, root / ".venv" / "bin" / "python"
            program = python.with_name("voltwire")
            await run(str(root / "scripts" / "setup"), cwd=root)
        # As today's code is, else each first start would compile it.
        await run(str(python), "-m", "compileall", "-q", str(root / "app"), cwd=root)
        checkout = Checkout(root, program, python, env)
        await require_own_code(checkout)
        yield checkout


def own_program(root: Path, python: Path) -> Path:
    """A `voltwire` that begins where the revision's own does, for the environment's begins where today's does."""
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["voltwire"]
    module, function = entry.split(":")
    program = root.with_name("voltwire")
    program.write_text(f"#!{python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    program.chmod(0o755)
    return program


async def require_own_code(checkout: Checkout) -> None:
    """Raises BenchError unless the checkout's Python finds the checkout's code."""
    argv = (str(checkout.python), "-P", "-c", "import app; print(app.__path__[0])")
    found = await run(*argv, cwd=checkout.root, env=checkout.env)
    if Path(found.decode().strip()) != checkout.root / "app":
        raise BenchError(f"the revision's program would run {found.decode().strip()}")


async def run(*argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> bytes:
    """The output of a program. It is ended with the task that waits for it. Raises BenchError when it fails."""
    given: dict[str, Any] = {"cwd": cwd, "env": {**os.environ, **(env or {})}, "start_new_session": True}
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdout=PIPE, stderr=PIPE, **given)
    except FileNotFoundError:
        raise BenchError(f"there is no program {argv[0]}") from None
    try:
        output, words = await process.communicate()
    except BaseException:
        # With all that it has started.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode and argv[:2] != ("git", "rev-parse"):
        raise BenchError(f"{failed(argv)}: {words.decode(errors='replace')[-1500:].strip()}")
    return output


def failed(argv: Sequence[str]) -> str:
    return f"{Path(argv[0]).name} {argv[1] if len(argv) > 1 else ''} failed"
