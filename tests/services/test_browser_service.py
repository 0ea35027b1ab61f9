"""The tests' browser and the database fixtures."""

import asyncpg
import pytest
from playwright.async_api import Page
from sqlalchemy import create_engine, text

from tests.services.receiver import Answer, Receiver

pytestmark = pytest.mark.long


async def test_the_browser_runs_a_page(page: Page, receiver: Receiver):
    html = b"<title>x</title><script>document.title = 'ran ' + (6 * 7)</script>"
    receiver.default = Answer(200, {"content-type": "text/html"}, html)
    await page.goto(receiver.url("/page"))
    assert await page.title() == "ran 42"
    assert "headlesschrome" in receiver.to("/page")[0].headers["user-agent"].lower()


async def test_database_url_is_an_empty_database(database_url: str):
    if database_url.startswith("sqlite:////"):
        engine = create_engine(database_url)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar_one() == 0
        engine.dispose()
    else:
        connection = await asyncpg.connect(database_url)
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await connection.close()
