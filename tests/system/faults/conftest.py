"""A rig for all tests of a file, once on SQLite and once on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

pytest.register_assert_rewrite("tests.system.faults.oracle", "tests.system.faults.running")

from tests.services.postgres import Postgres  # noqa: E402
from tests.system.faults.rig import Rig, open_rig  # noqa: E402


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("rig")
    if request.param == "sqlite":
        async with open_rig(f"sqlite:///{folder / 'voltwire.db'}", folder) as opened:
            yield opened
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    url = await postgres.create_database()
    async with open_rig(url, folder) as opened:
        yield opened
    await postgres.drop_database(url)
