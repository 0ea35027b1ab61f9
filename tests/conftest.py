"""Fixtures for every test: the real services, each started when the first test asks for it."""

import gc
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import structlog
from playwright.async_api import Browser, Page

from app.auth.actor import Actor
from app.core import clock
from app.db.database import Database
from app.db.migrations import migrate
from app.server.server import GC_THRESHOLDS
from tests.graphql.compiled.scene import Scene, random_account
from tests.graphql.serving import Serving, serving
from tests.services.browser import chromium, find_chromium
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver
from tests.services.smtp import SmtpSink
from tests.services.valkey import Valkey
from tests.support import TestAccount, World
from tests.support import world as open_world

pytest_plugins = ["tests.batteries"]

# The default draws each traceback with the values of its variables, which takes seconds.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    """Load the tests without collecting garbage, of which there is little."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Freeze all loaded objects: they stay to the end, and collecting garbage among them takes long."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()


HALF_HOUR_LEFT = 60.0
"""Seconds that a test may take whose answers change with the half-hour."""
LINES_SHOWN = 40
_begun: dict[Postgres, int] = {}
"""How much the running servers had logged as the present test began."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _begun.clear()
    for server in Postgres.running:
        _begun[server] = server.log.stat().st_size if server.log.exists() else 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what PostgreSQL has logged during a test that fails."""
    report = yield
    if report.failed:
        for server in Postgres.running:
            if lines := server.logged(_begun.get(server, 0))[-LINES_SHOWN:]:
                report.sections.append((f"PostgreSQL's log, {report.when}", "\n".join(lines)))
    return report


@pytest.fixture
def within_half_hour() -> None:
    """No half-hour, and so no day, ends during the test: what is asked of the last day differs from then on."""
    left = clock.HALF_HOUR.total_seconds() - time.time() % clock.HALF_HOUR.total_seconds()
    if left < HALF_HOUR_LEFT:
        time.sleep(left)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's PostgreSQL server, running. A test that stops it starts it again, or has its own."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """URL of an empty PostgreSQL database of this test's own."""
    url = await postgres.create_database()
    yield url
    await postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of this test's own, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'voltwire.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """The session's Valkey server, running. A test that stops it starts it again, or has its own."""
    server = Valkey()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def smtp_sink() -> Iterator[SmtpSink]:
    """A mail server of this test's own."""
    with SmtpSink() as sink:
        yield sink


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook receiver of this test's own."""
    with Receiver() as server:
        yield server


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The session's Chromium. Without one the test is skipped; in CI it fails."""
    path = find_chromium()
    if path is None:
        reason = "needs Chromium on the PATH, or its path in CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    async with chromium(path) as running:
        yield running


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A blank page in a browser profile of this test's own."""
    context = await browser.new_context()
    yield await context.new_page()
    await context.close()


@pytest.fixture(scope="session")
async def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "voltwire.db"
    await _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
async def migrated_postgres(postgres: Postgres) -> str:
    """The name of a migrated PostgreSQL database, to be used as a template."""
    url = await postgres.create_database()
    await _migrate(url)
    return url.rpartition("/")[2]


async def _migrate(url: str) -> None:
    database = Database(url)
    await migrate(database)
    await database.dispose()


@pytest.fixture
async def migrated_postgres_url(postgres: Postgres, migrated_postgres: str) -> AsyncIterator[str]:
    """URL of a migrated PostgreSQL database of this test's own."""
    url = await postgres.create_database(migrated_postgres)
    yield url
    await postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a migrated database of this test's own: a copy, for migrating each anew would take most of the time."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "voltwire.db")
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


@pytest.fixture(scope="session")
async def furnished_sqlite(
    migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Scene]:
    """A SQLite file with an account in it, to be copied."""
    path = tmp_path_factory.mktemp("furnished") / "voltwire.db"
    shutil.copy(migrated_sqlite, path)
    return path, await _furnish(f"sqlite:///{path}")


@pytest.fixture(scope="session")
async def furnished_postgres(postgres: Postgres, migrated_postgres: str) -> tuple[str, Scene]:
    """The name of a PostgreSQL database with an account in it, to be used as a template."""
    url = await postgres.create_database(migrated_postgres)
    return url.rpartition("/")[2], await _furnish(url)


async def _furnish(url: str) -> Scene:
    async with open_world(url) as opened:
        return await random_account(opened, random.Random(1))


@pytest.fixture
async def furnished_postgres_url(
    postgres: Postgres, furnished_postgres: tuple[str, Scene]
) -> AsyncIterator[str]:
    """URL of a PostgreSQL database of this test's own with an account in it."""
    url = await postgres.create_database(furnished_postgres[0])
    yield url
    await postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def furnished(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Scene]:
    """URL of a database of this test's own with an account in it, and what the account holds."""
    if request.param == "sqlite":
        original, scene = request.getfixturevalue("furnished_sqlite")
        return f"sqlite:///{shutil.copy(original, tmp_path / 'voltwire.db')}", scene
    return request.getfixturevalue("furnished_postgres_url"), request.getfixturevalue("furnished_postgres")[1]


@pytest.fixture
async def furnished_world(furnished: tuple[str, Scene]) -> AsyncIterator[World]:
    """The API's engine over an account with a bit of everything: `scene`."""
    async with open_world(furnished[0]) as opened:
        yield opened


@pytest.fixture
def scene(furnished: tuple[str, Scene]) -> Scene:
    """The rows of the account of `furnished_world`, and the actors that may see them."""
    return furnished[1]


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    """The API's engine over an empty database, once on SQLite and once on PostgreSQL."""
    async with open_world(migrated_url) as opened:
        yield opened


@pytest.fixture
async def small_world(migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[World]:
    path = shutil.copy(migrated_sqlite, tmp_path / "voltwire.db")
    async with open_world(f"sqlite:///{path}") as opened:
        yield opened


@pytest.fixture
async def holder(small_world: World) -> TestAccount:
    return await small_world.account()


@pytest.fixture
async def owner(small_world: World, holder: TestAccount) -> Actor:
    return (await small_world.authenticator.authenticate(holder.key)).actor


@pytest.fixture(params=[True, False], ids=["frames", "asgi"])
async def served(request: pytest.FixtureRequest, small_world: World) -> AsyncIterator[Serving]:
    """A server, once with the door to ready-made frames and once with plain ASGI."""
    async with serving(small_world, frames=request.param) as running:
        yield running
