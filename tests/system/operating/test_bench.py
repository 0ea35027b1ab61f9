"""Benchmarks against another revision, on a repository of the test's own: two commits that differ in one message."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from scripts.benchmarks.harness.machine import Cores, describe
from scripts.benchmarks.harness.report import Figure, Report
from scripts.benchmarks.reads import documents
from scripts.benchmarks.strangers.shapes import CARRIERS, PARTS, Shape, first_shapes, mutated
from scripts.benchmarks.strangers.soak import Look, Trend

ROOT = Path(__file__).parents[3]
LOCK = "requirements.lock"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose former revision wrote times with microseconds: three bytes more in each message."""
    folder = tmp_path_factory.mktemp("repository") / "checkout"
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("app", "scripts", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in (LOCK, "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    clock = folder / "app" / "core" / "clock.py"
    today = clock.read_text()
    former = today.replace('timespec="milliseconds"', 'timespec="microseconds"')
    assert former != today
    git(folder, "init", "--quiet")
    for text, message in ((former, "Before"), (today, "Now")):
        clock.write_text(text)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", f"--message={message}")
    return folder


def git(folder: Path, *arguments: str) -> None:
    author = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.test"}
    author |= {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.test"}
    subprocess.run(["git", *arguments], cwd=folder, env=os.environ | author, check=True)


async def bench(checkout: Path, temporary: Path, *arguments: str) -> Process:
    temporary.mkdir()
    changed = {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    argv = [sys.executable, "-m", "scripts.benchmarks", "--quick", *arguments]
    return await asyncio.create_subprocess_exec(*argv, cwd=checkout, env=os.environ | changed, stdout=PIPE)


@pytest.mark.long
async def test_a_revision_is_measured_beside_this_one(checkout: Path, tmp_path: Path) -> None:
    temporary, written = tmp_path / "temporary", tmp_path / "figures.json"
    process = await bench(checkout, temporary, "live", "--against", "HEAD~1", "--json", str(written))
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    figures = {one["name"]: one for one in json.loads(written.read_bytes())["figures"]}
    assert "deliveries a second" in figures
    for figure in figures.values():
        assert figure["baseline_name"] == "HEAD~1"
        assert len(figure["product"]) == len(figure["baseline"]) == len(figure["pairs"]) == 2
    message = figures["message"]
    assert message["baseline_median"] - message["product_median"] == 3
    assert "this revision beside HEAD~1" in output.decode()
    assert list(temporary.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_ended_leaves_nothing_behind(
    checkout: Path, tmp_path: Path, end: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    process = await bench(checkout, temporary, "live", "--against", "HEAD~1")
    assert process.stdout is not None
    while b"sockets on each side" not in await process.stdout.readline():
        assert process.returncode is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(end)
    assert await process.wait() == 130
    assert not any(map(psutil.Process.is_running, children))
    assert list(temporary.iterdir()) == []


async def test_an_unknown_revision_is_named(checkout: Path, tmp_path: Path) -> None:
    process = await bench(checkout, tmp_path / "temporary", "live", "--against", "no-such-one")
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "git knows no revision 'no-such-one'" in output.decode()


@pytest.mark.long
async def test_a_soak_shows_what_levels_off(checkout: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    process = await bench(
        checkout, tmp_path / "temporary", "soak", "--minutes", "0.1", "--json", str(written)
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads(written.read_bytes())
    assert [one["name"] for one in found["figures"]] == ["resident memory", "open files", "tasks", "threads"]
    for figure in found["figures"]:
        assert figure["product_median"] > 0
        assert "a minute in the last half" in figure["note"]
    assert "4th" in output.decode()
    assert "socket messages" in output.decode()


@pytest.mark.long
async def test_writes_are_measured_on_both_databases(checkout: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    process = await bench(checkout, tmp_path / "temporary", "writes", "--json", str(written))
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    figures = json.loads(written.read_bytes())["figures"]
    assert [(one["name"], one["bar"]) for one in figures] == [
        (f"{mutation}, {database}, {connections}", bar)
        for database, bar in (("SQLite", 3.0), ("PostgreSQL", 2.5))
        for mutation in ("createMeter", "createCustomer", "updateMeter", "recordReadings")
        for connections in ("1 connection", "16 connections")
    ]
    assert all(one["product_median"] > 0 and one["baseline_median"] > 0 for one in figures)


@pytest.mark.long
async def test_new_documents_are_measured_beside_seen_ones_on_both_databases(
    checkout: Path, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    process = await bench(checkout, tmp_path / "temporary", "documents", "--json", str(written))
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    figures = json.loads(written.read_bytes())["figures"]
    shapes = [one.name for one in documents.shapes((), ())]
    assert [one["name"] for one in figures] == [
        f"{shape}, {database}" for database in ("SQLite", "PostgreSQL") for shape in shapes
    ]
    for figure in figures:
        assert figure["product_median"] > 0
        assert figure["baseline_name"] == "seen"
        assert figure["baseline_median"] > 0


@pytest.mark.long
async def test_a_soak_has_no_other_side(checkout: Path, tmp_path: Path) -> None:
    process = await bench(checkout, tmp_path / "temporary", "soak", "--against", "HEAD~1")
    await process.communicate()
    assert process.returncode == 2


@pytest.mark.long
async def test_a_hostile_search_shows_the_worst_beside_the_bar(checkout: Path, tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    process = await bench(checkout, tmp_path / "temporary", "hostile", "--quick", "--json", str(written))
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    [figure] = json.loads(written.read_bytes())["figures"]
    assert (figure["name"], figure["baseline_name"]) == ("longest that one request holds the loop", "the bar")
    assert figure["product_median"] > 0
    assert figure["baseline_median"] > 0


@pytest.mark.parametrize(
    ("late", "verdict"),
    [
        ([100.0] * 4, "level"),
        ([100.0, 100.2, 100.4, 100.6], "level"),
        ([100.0, 104.0, 108.0, 112.0], "still grows"),
        ([100.0, 130.0, 90.0, 110.0], "level"),
        ([112.0, 108.0, 104.0, 100.0], "falls"),
    ],
)
def test_a_soak_tells_what_still_grows(late: list[float], verdict: str) -> None:
    memory = [50.0, 90.0, 95.0, 99.0, *late]
    looks = [Look(minute, value, 9.0, 9.0, 9.0) for minute, value in enumerate(memory)]
    assert Trend.of(looks, "memory").verdict == verdict
    assert Trend.of(looks, "files").verdict == "level"


def test_a_hostile_search_tries_the_same_shapes_each_time() -> None:
    shapes = first_shapes((1, 30, 300))
    assert len(shapes) == 3 * (len(PARTS) + len(CARRIERS))
    one, other = (mutations(shapes, random.Random(9)) for _ in range(2))
    assert [shape.request() for shape in one] == [shape.request() for shape in other]


def mutations(shapes: list[Shape], chance: random.Random) -> list[Shape]:
    return [mutated(chance.choice(shapes), chance) for _ in range(200)]


OLD = [100.0, 110.0, 90.0, 105.0, 95.0]


@pytest.mark.parametrize(
    ("now", "better", "ratio", "is_worse"),
    [
        ([99.0, 109.0, 89.0, 104.0, 94.0], "higher", 0.99, True),
        ([99.0, 109.0, 91.0, 104.0, 94.0], "higher", 0.99, False),
        ([101.0, 111.0, 91.0, 106.0, 96.0], "lower", 100 / 101, True),
        ([101.0, 111.0, 89.0, 106.0, 96.0], "lower", 100 / 101, False),
        (OLD, "lower", 1.0, False),
        ([120.0, 130.0, 110.0, 125.0, 115.0], "higher", 1.2, False),
    ],
)
def test_worse_is_what_is_worse_in_every_pair(
    now: list[float], better: str, ratio: float, is_worse: bool
) -> None:
    figure = Figure("live", "a figure", "", better, now, "HEAD", OLD)  # type: ignore[arg-type]
    assert figure.ratio == pytest.approx(ratio)
    assert figure.is_worse is is_worse
    console = Console(width=120)
    report = Report(describe(Cores()), console)
    report.add(figure)
    with console.capture() as printed:
        report.print_against("HEAD")
    assert ("1 of 1 figures are worse in every pair: a figure." in printed.get()) is is_worse


def test_a_bar_stands_beside_the_pairs() -> None:
    console = Console(width=120)
    report = Report(describe(Cores()), console)
    report.add(Figure("writes", "with", "", "higher", [6.0, 8.0], "plain", [2.0, 2.0], bar=3.0))
    report.add(Figure("writes", "without", "", "higher", [6.0, 8.0], "plain", [2.0, 2.0]))
    report.add(Figure("reads", "other", "", "higher", [1.0], "plain", [2.0]))
    with console.capture() as printed:
        report.print_table("writes", "writes")
        report.print_table("reads", "reads")
    head, *rows = [
        line.replace("│", " ").split() for line in printed.get().splitlines() if "│" in line or "┃" in line
    ]
    assert rows[0] == ["with", "7.00", "2.00", "plain", "3.50", "×", "3.00–4.00", "≥", "3", "×"]
    assert rows[1] == ["without", "7.00", "2.00", "plain", "3.50", "×", "3.00–4.00"]
    assert head[-2] == "bar"
    assert "bar" not in printed.get().partition("reads")[2]


def test_few_pairs_prove_nothing() -> None:
    figure = Figure("live", "a figure", "", "higher", [1.0, 1.0], "HEAD", [2.0, 2.0])
    assert figure.pairs == [0.5, 0.5]
    assert not figure.is_worse
