"""The modules that a command loads are exempt from garbage collection."""

import subprocess
import sys

LOADS = """
import gc
from app.cli import cli

assert gc.get_freeze_count() == 0
cli._admin()
assert gc.isenabled()
print(gc.get_freeze_count())
"""


def test_modules_of_a_command_are_not_looked_through_again() -> None:
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000
