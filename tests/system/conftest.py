"""A process as most people run it, shared by the tests that leave it as it is."""

from collections.abc import AsyncIterator

import pytest

from tests.system.clients import Api
from tests.system.deployment import Account, Deployment, deployed


@pytest.fixture(scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """`voltwire serve` on SQLite with the in-memory broadcaster."""
    async with deployed(["serve"], tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="session")
async def account(served: Deployment) -> Account:
    return await served.account()


@pytest.fixture
async def api(served: Deployment, account: Account) -> AsyncIterator[Api]:
    async with Api(served.apis[0].url, account.key) as client:
        yield client
