"""Fixtures of the tests of live events."""

from collections.abc import Iterator

import pytest

from tests.services.postgres import Postgres


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A server that only this module's tests stop."""
    server = Postgres()
    yield server
    server.close()
