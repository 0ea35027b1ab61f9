"""Waits for the ends of imports."""

import asyncio

import pytest

from app.auth.actor import Actor, Scope
from app.graphql.http.rates import TooManyRequests
from app.imports.waiting import MOST_WAITS, ImportWaits, Report

ACTOR, OTHER = (Actor(one, frozenset({Scope.READ})) for one in ("acc_1", "acc_2"))


class Imports:
    """Imports of which each read is counted; all but those that have `ended` run."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.reads = 0

    async def read(self, actor: Actor, import_id: str) -> Report:
        self.reads += 1
        return {"id": import_id, "status": "COMPLETED" if import_id in self.ended else "RUNNING"}


async def test_all_that_wait_for_an_import_share_its_reads() -> None:
    imports = Imports()
    imports.ended.add("imp_1")
    waits = ImportWaits(imports.read)
    found = await asyncio.gather(*(waits.until_ended(ACTOR, "imp_1", 60) for _ in range(50)))
    assert found == [{"id": "imp_1", "status": "COMPLETED"}] * 50
    assert imports.reads == 1


async def test_a_wait_that_is_over_shows_the_import_as_it_is() -> None:
    imports = Imports()
    waits = ImportWaits(imports.read)
    assert await waits.until_ended(ACTOR, "imp_1", 0.01) == {"id": "imp_1", "status": "RUNNING"}
    imports.ended.add("imp_1")
    assert await waits.until_ended(ACTOR, "imp_1", 60) == {"id": "imp_1", "status": "COMPLETED"}


async def test_an_account_has_a_number_of_waits_at_the_same_time() -> None:
    imports = Imports()
    waits = ImportWaits(imports.read)
    waiting = [asyncio.create_task(waits.until_ended(ACTOR, "imp_1", 60)) for _ in range(MOST_WAITS)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests):
        await waits.until_ended(ACTOR, "imp_2", 60)
    imports.ended |= {"imp_1", "imp_2"}
    assert await waits.until_ended(OTHER, "imp_2", 60) is not None
    await asyncio.gather(*waiting)
    assert await waits.until_ended(ACTOR, "imp_2", 60) is not None
