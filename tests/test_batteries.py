"""The suite's own ways: samples of long batteries, seeds, property tests' profiles and the bound of each test."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = """
import pathlib
import pytest
from hypothesis import given, strategies as st

def tell(told):
    with pathlib.Path("told").open("a") as file:
        print(told, file=file)

@pytest.mark.long(keep=3)
@pytest.mark.parametrize("number", range(20))
def test_sampled(number):
    tell(f"case {number}")

@pytest.mark.long(keep=1, of="turn")
@pytest.mark.parametrize("turn", range(10))
@pytest.mark.parametrize("kind", ["this", "that"])
def test_sampled_by_turn(kind, turn):
    tell(f"turn {kind} {turn}")

@pytest.mark.long
def test_only_with_all():
    tell("only with --all")

def test_seed(seed, thorough):
    tell(f"seed {seed} {thorough}")

@given(st.integers(0, 10**9))
def test_property(number):
    tell(f"example {number}")
"""
DATABASES = """
import pathlib
import pytest

def tell(told):
    with pathlib.Path("told").open("a") as file:
        print(told, file=file)

@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request):
    return request.param

@pytest.mark.parametrize("number", range(100))
def test_one_database(migrated_url, number):
    tell(f"once {migrated_url} {number}")

@pytest.mark.both_databases
def test_both(migrated_url):
    tell(f"both {migrated_url}")

@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
def test_the_other(migrated_url):
    tell(f"only {migrated_url}")
"""
HANGS = """
import asyncio
import threading
import time
import pytest

@pytest.fixture
async def hanging():
    yield
    await asyncio.Event().wait()

async def test_that_waits():
    await asyncio.Event().wait()

async def test_that_waits_beside_a_busy_task():
    async def busy():
        time.sleep(0.5)

    asyncio.create_task(busy()).add_done_callback(lambda done: done.exception())
    await asyncio.Event().wait()

def test_that_blocks():
    threading.Event().wait()

async def test_whose_fixture_hangs(hanging):
    pass

async def test_that_ends():
    await asyncio.sleep(0)
"""
BOUND = """
import pathlib

def test_bound(request):
    marker = request.node.get_closest_marker("timeout")
    pathlib.Path("told").write_text(f"bound {marker and marker.args[0]}")
"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a small suite that uses what this one uses; gives pytest's own words. Tests write into the file `told`."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "VOLTWIRE_TEST_SEED")}

    def run(source: str, *options: str, **environment: str) -> str:
        (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.batteries"]\n')
        (tmp_path / "test_small.py").write_text(source)
        (tmp_path / "told").write_text("")
        settings = ["-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *settings, *options, str(tmp_path)],
            cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.stdout

    return run


def told(tmp_path: Path, word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", (tmp_path / "told").read_text(), re.MULTILINE)


def test_a_run_is_the_same_sample_each_time(run: Run, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        assert "7 passed, 36 deselected" in run(CASES, CI="true")
        runs.append((tmp_path / "told").read_text())
    assert runs[0] == runs[1]
    assert told(tmp_path, "case") == ["0", "7", "14"]
    assert told(tmp_path, "turn") == ["this 8", "that 8"]
    assert told(tmp_path, "seed") == ["80474166 False"]
    assert len(told(tmp_path, "example")) == 100


def test_a_run_takes_one_database_unless_the_code_differs(run: Run, tmp_path: Path) -> None:
    run(DATABASES)
    ran = told(tmp_path, "once")
    assert [one for one in ran if "sqlite" in one] == [f"sqlite {number}" for number in range(100)]
    sample = [one for one in ran if "postgresql" in one]
    assert 2 < len(sample) < 25
    assert told(tmp_path, "both") == ["sqlite", "postgresql"]
    assert told(tmp_path, "only") == ["postgresql"]
    run(DATABASES)
    assert told(tmp_path, "once") == ran
    assert "203 passed" in run(DATABASES, "--all")


@pytest.mark.long
def test_property_tests_try_something_else_each_time_outside_ci(run: Run, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        run(CASES)
        runs.append(told(tmp_path, "example"))
    assert len(runs[0]) == len(runs[1]) == 100
    assert runs[0] != runs[1]


@pytest.mark.long
def test_all_runs_every_case_with_fresh_seeds(run: Run, tmp_path: Path) -> None:
    seeds = set()
    for _ in range(2):
        assert "43 passed" in run(CASES, "--all", CI="true")
        seeds.update(told(tmp_path, "seed"))
    assert told(tmp_path, "case") == [str(number) for number in range(20)]
    assert told(tmp_path, "only") == ["with --all"]
    assert len(seeds) == 2
    assert len(told(tmp_path, "example")) == 3_000


@pytest.mark.long
def test_a_seed_is_repeated_by_its_variable(run: Run, tmp_path: Path) -> None:
    run(CASES, "--all", "-k", "test_seed", VOLTWIRE_TEST_SEED="4711")
    assert told(tmp_path, "seed") == ["4711 True"]


@pytest.mark.long
def test_each_test_has_a_bound_of_minutes(run: Run, tmp_path: Path) -> None:
    assert "timeout: 600.0s" in run(BOUND)
    assert told(tmp_path, "bound") == ["None"]
    run(BOUND, "--all")
    assert told(tmp_path, "bound") == ["3600"]


def test_a_hang_is_a_failure_with_a_name_and_the_rest_goes_on(run: Run) -> None:
    words = run(HANGS, "--timeout", "0.2")
    named = re.findall(r"^(?:FAILED|ERROR) test_small.py::(\w+) - Failed: Timeout", words, re.MULTILINE)
    assert sorted(named) == [
        "test_that_blocks",
        "test_that_waits",
        "test_that_waits_beside_a_busy_task",
        "test_whose_fixture_hangs",
    ]
    assert "3 failed, 2 passed, 1 error" in words
