"""Half-hours that a version before days stored, each with a value that follows from its meter and time."""

import random
from typing import Final

from sqlalchemy import select, text
from sqlmodel import col

from app.core import clock
from app.db.database import Database
from app.db.sql import is_sqlite
from app.readings.buckets import HALF_HOUR_MS
from app.readings.models import HalfHour
from tests.readings.many_days import insert_meters, numbers, without_foreign_keys
from tests.readings.plain_model import Value
from tests.support import World
from tests.system.clients import Api
from tests.system.readings.writers import intervals, micro

FIRST: Final = clock.to_ms(clock.parse_utc("2023-03-25T07:00:00Z")) // HALF_HOUR_MS
RECORDED: Final = clock.parse_utc("2025-01-02T03:04:05.678Z")
LONGEST: Final = 17_000
"""Half-hours that one query asks for."""


class OldHalfHours:
    """So many half-hours of each of some meters, without a gap."""

    def __init__(self, key: str, customer_id: str, meters: list[str], each: int) -> None:
        self.key = key
        self.customer_id = customer_id
        self.meters = meters
        self.each = each

    @classmethod
    async def store(cls, world: World, meters: int, each: int) -> "OldHalfHours":
        account, customer_id, made = await insert_meters(world, meters)
        async with world.database.transaction() as session:
            await without_foreign_keys(session)
            recorded = "1735787045678" if is_sqlite(session) else "to_timestamp(1735787045.678)"
            await session.execute(
                text(
                    "INSERT INTO readings (meter_id, start_ms, micro_kwh, estimated, recorded_at) "
                    "SELECT meters.id, 1800000 * CAST(at.n AS bigint), "
                    "(CAST(at.n AS bigint) * 7919 + CAST(meters.number AS bigint) * 104729) % 3001 * 1000, "
                    f"CASE WHEN at.n % 11 = 0 THEN 1 ELSE 0 END, {recorded} "
                    f"FROM meters, {numbers(session, 'at', FIRST, FIRST + each - 1)} "
                    "WHERE TRUE ORDER BY meters.id, at.n"
                )
            )
        return cls(account.key, customer_id, made, each)

    def values(self, meter_id: str, span: tuple[int, int]) -> dict[int, Value]:
        number = self.meters.index(meter_id)
        low, high = max(span[0], FIRST), min(span[1], FIRST + self.each)
        return {at: ((at * 7919 + number * 104729) % 3001 * 1000, at % 11 == 0) for at in range(low, high)}

    async def look(self, api: Api, chance: random.Random) -> None:
        """Some half-hours and days of some meter are as they were stored."""
        meter_id = chance.choice(self.meters)
        low = chance.randrange(FIRST - 50, FIRST + self.each)
        await self.look_at(api, meter_id, (low, low + chance.randint(1, min(self.each, 2000))))

    async def look_at_whole(self, api: Api, chance: random.Random) -> None:
        """All half-hours of some forty meters."""
        for meter_id in chance.sample(self.meters, min(40, len(self.meters))):
            for low in range(FIRST, FIRST + self.each, LONGEST):
                await self.look_at(api, meter_id, (low, low + LONGEST))

    async def look_at(self, api: Api, meter_id: str, span: tuple[int, int]) -> None:
        expected = self.values(meter_id, span)
        found, answer = await intervals(api, meter_id, "IMPORT", span)
        assert found == expected
        assert micro(answer["total"]) == sum(amount for amount, _ in expected.values())
        assert answer["missingCount"] == span[1] - span[0] - len(expected)


async def is_any_left(database: Database) -> bool:
    """Whether any half-hour is not carried over yet; the last ones are the last to be."""
    last = select(col(HalfHour.meter_id)).order_by(col(HalfHour.meter_id).desc()).limit(1)
    async with database.reading() as session:
        return (await session.execute(last)).first() is not None
