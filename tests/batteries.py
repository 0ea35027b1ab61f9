"""Decides how much of the suite a run takes on; `--all` takes on everything.

Without `--all` a run is a bounded sample, the same each time: `@pytest.mark.long(keep=N)` keeps N cases of a test,
which the test's name chooses (with `of="turn"`, N values of that parameter for each combination of the others), and
the `seed` fixture is made of that name. In CI that holds for property tests too; `examples(N)` is for long examples.
Tests that take a database run on SQLite, and a sample of them on PostgreSQL; where the code differs by database
`@pytest.mark.both_databases` has each run on both.
With `--all` every case runs, seeds are fresh and property tests try many more examples.
"""

import hashlib
import os
import random
import secrets
import signal
from collections import defaultdict
from collections.abc import Generator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES: Final = 3_000
"""Examples of a property test with `--all`."""
TIMEOUT: Final = 3_600
"""Seconds that a test may take with `--all`; without it, `timeout` in pyproject.toml is the bound."""
DATABASES: Final = frozenset({"database_url", "migrated_url", "furnished"})
"""Fixtures that give a test a database of each kind."""
ONE_IN: Final = 10
"""Tests of which one runs on PostgreSQL as well, unless its code differs by database."""
REPEATED_EVERY: Final = 1.0
"""Seconds between two attempts to end a test that takes too long."""
SEED: Final = "VOLTWIRE_TEST_SEED"
"""The environment variable that repeats a seed."""


def examples(few: int) -> settings:
    """For a property test with long examples, of which a run without `--all` tries few."""
    every = settings().max_examples
    return settings(max_examples=every if every == EXAMPLES else few)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="run every case of the long batteries, with fresh seeds"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "long(keep=0, of=None): a battery of which a run without --all keeps so many cases"
    )
    config.addinivalue_line(
        "markers",
        "both_databases: a test of code that differs by database, which runs on both without --all too",
    )
    # How long an example takes says something about the machine, and nothing about the code.
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
    settings.register_profile("sample", patient)
    settings.register_profile("ci", patient, derandomize=True, database=None)
    settings.register_profile("all", patient, max_examples=EXAMPLES)
    if config.getoption("--all"):
        settings.load_profile("all")
    else:
        settings.load_profile("ci" if os.environ.get("CI") else "sample")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    """Let a timeout strike until it ends the test: what it raises within a step of another task ends only that task."""
    is_set = yield
    if settings.method == "signal" and settings.timeout:
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, REPEATED_EVERY)
    return is_set


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        for item in items:
            item.add_marker(pytest.mark.timeout(TIMEOUT), append=False)
        return
    batteries: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("long")
        if marker is not None:
            batteries[_battery(item, marker)].append(item)
    on_sqlite = {_name(case) for case in items if "sqlite" in _databases(case)}
    left_out = {case for case in items if _name(case) in on_sqlite and _is_repetition(case)}
    left_out |= {case for (name, _), cases in batteries.items() for case in _left_out(name, cases)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_repetition(case: pytest.Item) -> bool:
    """Whether a case does on PostgreSQL only what it does on SQLite, and is not in the sample of such cases."""
    if "postgresql" not in _databases(case) or case.get_closest_marker("both_databases"):
        return False
    return random.Random(case.nodeid).randrange(ONE_IN) > 0


def _databases(case: pytest.Item) -> set[object]:
    """The kinds of databases that a case takes."""
    parameters = getattr(case, "callspec", None)
    return set() if parameters is None else {parameters.params.get(name) for name in DATABASES}


def _name(case: pytest.Item) -> str:
    return case.nodeid.partition("[")[0]


def _battery(case: pytest.Item, marker: pytest.Mark) -> tuple[str, str]:
    """The test's name and its parameters but the sampled one: cases that agree in both are one battery."""
    parameters = getattr(case, "callspec", None)
    others = {} if parameters is None or "of" not in marker.kwargs else dict(parameters.params)
    others.pop(marker.kwargs.get("of"), None)
    return _name(case), repr(others)


def _left_out(name: str, cases: list[pytest.Item]) -> list[pytest.Item]:
    marker = cases[0].get_closest_marker("long")
    assert marker is not None
    kept = min(marker.kwargs.get("keep", 0), len(cases))
    return random.Random(name).sample(cases, len(cases) - kept)


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether this is a run with `--all`, in which a battery may take its time."""
    return bool(request.config.getoption("--all"))


@pytest.fixture
def seed(request: pytest.FixtureRequest, thorough: bool) -> str:
    """The seed of a test's chance, shown when the test fails; `VOLTWIRE_TEST_SEED` repeats it."""
    own = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]
    chosen = os.environ.get(SEED) or (secrets.token_hex(4) if thorough else own)
    print(f"{SEED}={chosen}")
    return chosen
