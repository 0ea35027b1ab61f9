"""Operators' commands that do not serve load no server."""

import subprocess
import sys

LOADED = (
    "import sys, app.cli.admin; print(*sorted({'graphql', 'strawberry', 'uvicorn'} & sys.modules.keys()))"
)


def test_commands_over_the_database_load_no_server() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
