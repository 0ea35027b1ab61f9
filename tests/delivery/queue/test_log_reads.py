"""The worker reads only the events of the log that it needs, however long the log is."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.database import run_script
from app.delivery.destinations.kinds import KINDS
from app.delivery.metadata import METADATA
from app.delivery.queue import leases
from app.delivery.queue.dispatch import Dispatcher, read_after
from app.delivery.queue.leases import Wanted
from app.delivery.queue.models import Lane
from tests.delivery.scene import Scene, open_scene

pytestmark = pytest.mark.both_databases

EVENTS = 500
# Rows of the log that this transaction has read by going through all of it.
SCANNED = text("SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'events'")


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url) as opened:
        if opened.database.is_sqlite:
            pytest.skip("SQLite joins by searching, whatever it expects to find")
        yield opened


async def scanned(session: AsyncSession) -> int:
    return int((await session.execute(SCANNED)).scalar_one())


async def test_neither_dispatching_nor_claiming_goes_through_the_log(scene: Scene) -> None:
    account = await scene.account()
    endpoint = await scene.endpoint(account, "https://example.com/hook")
    await scene.happen(account, EVENTS)
    async with scene.database.transaction() as session:
        await session.execute(text("ANALYZE"))
    dispatcher = Dispatcher(scene.database, KINDS, METADATA, lambda *_: None)

    async with scene.database.transaction() as session:
        page = await run_script(session, read_after(False, {account: EVENTS - 10}, 100))
        assert ([one.sequence for one in page], await scanned(session)) == (
            list(range(EVENTS - 9, EVENTS + 2)),
            0,
        )
    assert await dispatcher.run() == EVENTS + 1
    async with scene.database.transaction() as session:
        picked = await leases.pick(session, [Wanted(endpoint.id, Lane.FRESH, 20)])
        assert ([one.event_sequence for one in picked], await scanned(session)) == (list(range(2, 22)), 0)
        assert all(one.data is not None for one in picked)
