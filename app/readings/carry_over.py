"""Carries readings that versions before days stored over into day rows.

The worker does it, because a start must not wait for it: with millions of meters it takes hours. Until a half-hour is
carried over it counts where it is, for reads and for writes. Each transaction moves some half-hours: it deletes them
and writes the days that hold them, so that the rows that are left say where to go on after any crash.
"""

from typing import Final

import structlog

from app.core import failpoints
from app.db.database import Database
from app.db.raw_statements import Script
from app.db.scripts import InTransaction, erasing, is_on_sqlite
from app.db.sql import Sql, rows
from app.readings import day_rows

HALF_HOURS_AT_ONCE: Final = 10_000

Position = tuple[str, int]
"""A meter's id, and the start of a half-hour in milliseconds."""

FIRST: Final[Position] = ("", -(2**63))

log = structlog.get_logger(__name__)

_PAGE = Sql("""
    SELECT meter_id, start_ms FROM readings WHERE (meter_id, start_ms) > (:meter_id, :start_ms)
    ORDER BY meter_id, start_ms LIMIT :limit
""")
_LOCK = Sql("""
    SELECT meters.id FROM meters WHERE meters.id IN (SELECT given.meter_id FROM @rows(meter_id text))
    ORDER BY meters.id @lock(meters)
""")
_TAKE = Sql("""
    DELETE FROM readings WHERE meter_id IN (SELECT given.meter_id FROM @rows(meter_id text))
        AND (meter_id, start_ms) > (:meter_id, :start_ms) AND (meter_id, start_ms) <= (:last_id, :last_ms)
    RETURNING meter_id, start_ms, micro_kwh, estimated, @ms(recorded_at)
""")


class CarryOver:
    """Moves half-hours in the order of their meters. Where several workers do it, one waits for another's locks."""

    def __init__(self, database: Database, at_once: int = HALF_HOURS_AT_ONCE) -> None:
        self._database = database
        self._at_once = at_once
        # The search begins behind what was moved: a database passes over deleted rows slowly until it vacuums them.
        self._position = FIRST

    async def step(self) -> bool:
        """Moves the next half-hours in one transaction; False once there are none left."""
        last = await self._database.transact(self._move)
        before, self._position = self._position, last or FIRST
        if last is None and before != FIRST:
            log.info("readings_carried_over")
        # At the end it looks once more from the beginning, where an older process may have written meanwhile.
        return last is not None or before != FIRST

    def _move(self, transaction: InTransaction) -> Script[Position | None]:
        on_sqlite = is_on_sqlite(transaction)
        last = yield from erasing(on_sqlite, _moving(on_sqlite, self._position, self._at_once))
        failpoints.reach("carry_over.before_commit")
        return last


def _moving(on_sqlite: bool, after: Position, at_once: int) -> Script[Position | None]:
    """Gives the last position that it moved, None at the end."""
    start = {"meter_id": after[0], "start_ms": after[1]}
    page = yield _PAGE.of(on_sqlite), {**start, "limit": at_once}
    if not page:
        return None
    last = page[-1][0], page[-1][1]
    meters = rows({"meter_id": one} for one in sorted({meter_id for meter_id, _ in page}))
    yield _LOCK.of(on_sqlite), {"rows": meters}
    # While this waited for the locks, others may have changed the rows.
    end = {"last_id": last[0], "last_ms": last[1]}
    taken = yield _TAKE.of(on_sqlite), {"rows": meters, **start, **end}
    if taken:
        yield from day_rows.carry_over(on_sqlite, taken)
    return last
