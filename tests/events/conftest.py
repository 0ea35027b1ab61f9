"""Broadcasters that only the tests of this folder hurt."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.events.broadcasters import NETWORKED, tasks
from tests.services.postgres import Postgres
from tests.services.process import Service
from tests.services.valkey import Valkey


@pytest.fixture
async def no_task_is_left() -> AsyncIterator[None]:
    before = tasks()
    yield
    assert tasks() - before == set()


@pytest.fixture(scope="package")
def own_valkey() -> Iterator[Valkey]:
    server = Valkey()
    yield server
    server.close()


@pytest.fixture(scope="package")
def own_postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=NETWORKED)
def server(request: pytest.FixtureRequest) -> Service:
    """Each server once, running."""
    server: Service = request.getfixturevalue("own_valkey" if request.param == "valkey" else "own_postgres")
    server.start()
    return server
