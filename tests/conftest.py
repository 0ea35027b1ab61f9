"""Fixtures for every test: the real services, each started when the first test asks for it."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from playwright.async_api import Browser, Page

from app.database import Database
from app.migrations import migrate
from tests.services.browser import chromium, find_chromium
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver
from tests.services.smtp import SmtpSink
from tests.services.valkey import Valkey
from tests.support import World
from tests.support import world as open_world

# The default draws each traceback with the values of its variables, which takes seconds.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


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


@pytest.fixture
async def world(migrated_url: str) -> AsyncIterator[World]:
    """The API's engine over an empty database, once on SQLite and once on PostgreSQL."""
    async with open_world(migrated_url) as opened:
        yield opened
