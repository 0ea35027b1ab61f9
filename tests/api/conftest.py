"""Fixtures of the live endpoints' tests: a server and one account, on SQLite."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.auth.actor import Actor
from tests.api.serving import Serving, serving
from tests.support import TestAccount, World
from tests.support import world as open_world


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
    return await small_world.authenticator.authenticate(holder.key)


@pytest.fixture(params=[True, False], ids=["frames", "asgi"])
async def served(request: pytest.FixtureRequest, small_world: World) -> AsyncIterator[Serving]:
    """A server, once with the door to ready-made frames and once with plain ASGI."""
    async with serving(small_world, frames=request.param) as running:
        yield running
