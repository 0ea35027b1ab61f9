"""Meters that fall silent: told once for each silence, at its instant, whatever workers do, but not of the past."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlmodel import col

from app.auth.actor import Actor, Scope
from app.consents.models import ConsentMeter, HostedConsent
from app.core import clock
from app.core.ids import new_id
from app.db.database import run_script
from app.events.models import EventRecord
from app.feeds.models import MeterFeed
from app.meters import actions as meters
from app.meters.models import Meter
from app.readings import actions
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from app.readings.models import MeterKey, ReadingDay
from app.readings.packing import Day, pack
from app.readings.silences.channels import OVERDUE_AFTER
from app.readings.silences.worker import AT_ONCE, Silences
from tests.accounts.state import events
from tests.core.killed import killed_at
from tests.events.upgraded import upgraded_at
from tests.feeds.feeding import fed_meter, made_feed
from tests.meters.asking import make_consent, make_customer
from tests.readings.metered import Metered, metered, reading
from tests.support import World

pytestmark = pytest.mark.both_databases

OVERDUE = "meter_data.overdue"
MILLISECOND, HOUR = timedelta(milliseconds=1), timedelta(hours=1)


async def told(meter: Metered) -> list[EventRecord]:
    return [one for one in await events(meter.world, meter.account.id) if one.type == OVERDUE]


async def step(world: World, at: datetime) -> bool:
    """Takes a worker's next step at this instant."""
    return await Silences(world.database, lambda: at).step()


async def recorded_at(meter: Metered) -> datetime:
    """When the latest of all readings were recorded."""
    statement = select(col(ReadingDay.recorded_ms)).order_by(col(ReadingDay.recorded_ms).desc()).limit(1)
    async with meter.world.database.reading() as session:
        return clock.from_ms((await session.execute(statement)).scalar_one())


async def record_at(meter: Metered, start: str, at: datetime, channel: str = "IMPORT") -> None:
    """Records a reading of a day of its own as if it were this time."""
    payload = await meter.record(reading(start, "1.5"), channel=channel)
    assert payload["changed"] == 1
    of_day = col(ReadingDay.day) == clock.to_ms(clock.parse_utc(start)) // 86_400_000
    async with meter.world.database.transaction() as session:
        await session.execute(update(ReadingDay).where(of_day).values(recorded_ms=clock.to_ms(at)))


async def change(world: World, model: Any, **values: Any) -> None:
    async with world.database.transaction() as session:
        await session.execute(update(model).values(**values))


async def next_look(world: World) -> datetime:
    async with world.database.reading() as session:
        return clock.from_ms((await session.execute(select(col(MeterKey.look_ms)))).scalar_one())


async def test_a_silence_is_told_of_once_at_its_instant(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"), reading("2024-05-01T10:30:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    assert await step(world, due - MILLISECOND)
    assert await next_look(world) == due
    assert not await step(world, due - MILLISECOND)
    assert await told(meter) == []
    assert await step(world, due)
    (event,) = await told(meter)
    assert event.data == {
        "meterId": meter.meter_id,
        "customerId": meter.customer_id,
        "channel": "IMPORT",
        "latestAt": "2024-05-01T10:30:00.000Z",
    }
    assert (event.subject_id, event.customer_id) == (meter.meter_id, meter.customer_id)
    for _ in range(3):
        assert await step(world, await next_look(world))
    assert len(await told(meter)) == 1


async def test_readings_begin_a_new_silence(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    first = await recorded_at(meter) + OVERDUE_AFTER
    assert await step(world, first)
    await record_at(meter, "2024-05-02T10:00:00.000Z", first + HOUR)
    second = first + HOUR + OVERDUE_AFTER
    # It looks before the new silence is overdue, and then at the instant.
    assert await step(world, second - HOUR)
    assert len(await told(meter)) == 1
    assert await next_look(world) == second
    assert await step(world, second)
    assert [one.data["latestAt"] for one in await told(meter)] == [
        "2024-05-01T10:00:00.000Z",
        "2024-05-02T10:00:00.000Z",
    ]


async def test_a_correction_of_older_readings_ends_no_silence(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-02T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    await record_at(meter, "2024-05-01T10:00:00.000Z", due - HOUR)
    assert await step(world, due)
    assert len(await told(meter)) == 1


async def test_each_channel_is_silent_by_itself(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    first = await recorded_at(meter) + OVERDUE_AFTER
    await record_at(meter, "2024-05-02T10:00:00.000Z", first - HOUR, "EXPORT")
    assert await step(world, first)
    assert [one.data["channel"] for one in await told(meter)] == ["IMPORT"]
    assert await next_look(world) == first - HOUR + OVERDUE_AFTER
    assert await step(world, first - HOUR + OVERDUE_AFTER)
    assert [one.data["channel"] for one in await told(meter)] == ["IMPORT", "EXPORT"]


async def test_a_channel_that_begins_later_is_found_in_time(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    assert await step(world, due)
    await record_at(meter, "2024-05-02T10:00:00.000Z", due + MILLISECOND, "GENERATION")
    assert await next_look(world) <= due + OVERDUE_AFTER


@pytest.mark.parametrize("reason", ["disabled", "revoked", "expired", "uncovered", "deleted"])
async def test_only_active_meters_are_told_of(world: World, reason: str) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    actor = Actor(meter.account.id, frozenset({Scope.WRITE}))
    if reason == "disabled":
        await world.database.transact(lambda _: meters.disable(actor, meter.meter_id))
    elif reason == "revoked":
        await change(world, HostedConsent, decision="REVOKED")
    elif reason == "expired":
        await change(world, HostedConsent, expires_at=due)
    elif reason == "uncovered":
        await world.database.transact(lambda one: meters.set_consent(one, actor, meter.meter_id, None))
    else:
        await world.database.transact(lambda _: meters.delete(actor, meter.meter_id))
    assert await step(world, due) is (reason != "deleted")
    assert await told(meter) == []


async def test_a_silence_begins_when_the_meter_becomes_active(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    await change(world, Meter, enabled_at=due - HOUR)
    assert await step(world, due)
    assert await next_look(world) == due - HOUR + OVERDUE_AFTER
    await change(world, Meter, enabled_at=None)
    await change(world, HostedConsent, decided_at=due - 2 * HOUR)
    await change(world, MeterKey, look_ms=0)
    assert await step(world, due)
    assert await next_look(world) == due - 2 * HOUR + OVERDUE_AFTER
    assert await told(meter) == []


async def test_enabling_a_meter_notes_when(world: World) -> None:
    meter = await metered(world)
    actor = Actor(meter.account.id, frozenset({Scope.WRITE}))
    for act, is_noted in ((meters.disable, False), (meters.enable, True), (meters.enable, True)):
        row = await world.database.transact(lambda _: act(actor, meter.meter_id))  # noqa: B023
        async with world.database.reading() as session:
            stored = await session.get_one(Meter, meter.meter_id)
        assert stored.enabled_at == row.enabled_at
        assert (stored.enabled_at is not None) is is_noted
        assert not is_noted or stored.enabled_at == stored.updated_at


async def test_silences_from_before_the_upgrade_stay_untold(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    begins = await recorded_at(meter)
    await upgraded_at(world, begins + MILLISECOND)
    assert await step(world, begins + OVERDUE_AFTER)
    assert await told(meter) == []
    # A silence that begins after it is told.
    after = begins + OVERDUE_AFTER + HOUR
    await record_at(meter, "2024-05-02T10:00:00.000Z", after)
    assert await next_look(world) <= after + OVERDUE_AFTER
    assert await step(world, after + OVERDUE_AFTER)
    assert [one.data["latestAt"] for one in await told(meter)] == ["2024-05-02T10:00:00.000Z"]


async def test_a_feed_that_brings_nothing_is_told_of(world: World) -> None:
    meter = await metered(world)
    await fed_meter(world, meter.account.id, meter.meter_id, await made_feed(world, meter.account.id))
    async with world.database.reading() as session:
        set_at = (await session.execute(select(col(MeterFeed.created_at)))).scalar_one()
    due = set_at + OVERDUE_AFTER
    silences = Silences(world.database, lambda: due)
    assert await silences.step()
    assert not await silences.step()
    (event,) = await told(meter)
    assert (event.data["channel"], event.data["latestAt"]) == ("IMPORT", None)
    # The first readings begin a silence of their own.
    await record_at(meter, "2024-05-02T10:00:00.000Z", due + HOUR)
    assert await step(world, due + HOUR + OVERDUE_AFTER)
    assert [one.data["latestAt"] for one in await told(meter)] == [None, "2024-05-02T10:00:00.000Z"]


@pytest.mark.parametrize("point", ["silences.before_commit", "log.written", "silences.committed"])
async def test_a_crash_tells_of_none_twice_and_forgets_none(world: World, point: str) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    with killed_at(point):
        await step(world, due)
    is_told = point == "silences.committed"
    assert len(await told(meter)) == is_told
    assert await step(world, due) is not is_told
    assert len(await told(meter)) == 1


async def test_readings_that_are_being_written_keep_it_from_being_told(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("2024-05-01T10:00:00.000Z", "1"))
    due = await recorded_at(meter) + OVERDUE_AFTER
    actor = Actor(meter.account.id, frozenset({Scope.WRITE}))
    half_hour = clock.to_ms(clock.parse_utc("2024-05-02T10:00:00.000Z")) // 1_800_000
    async with world.database.transaction() as session:
        new = Columns([half_hour], [1_000_000], [False])
        await run_script(session, actions.record(session, actor, meter.meter_id, new, ReadingChannel.IMPORT))
        looking = asyncio.create_task(step(world, due))
        if not world.database.is_sqlite:
            # It passes over the locked meter. On SQLite it waits for this transaction.
            await looking
    await looking
    await step(world, due)
    assert await told(meter) == []
    assert await next_look(world) == await recorded_at(meter) + OVERDUE_AFTER


async def many_meters(world: World, count: int, at: datetime) -> list[Metered]:
    """Meters of one customer, each with readings of one day that were recorded at an instant."""
    account = await world.account()
    customer_id = await make_customer(world, account)
    consent_id = await make_consent(world, account, customer_id)
    rows = [
        Meter(
            id=new_id("mtr"), account_id=account.id, customer_id=customer_id, number=f"{one:013}", type="GAS"
        )
        for one in range(count)
    ]
    ids = [row.id for row in rows]
    packed = pack(Day(1, 0, [1_000_000]))
    async with world.database.transaction() as session:
        session.add_all(rows)
        await session.flush()
        links = [{"meter_id": one, "hosted_consent_id": consent_id} for one in ids]
        await session.execute(insert(ConsentMeter), links)
        await session.execute(insert(MeterKey), [{"meter_id": one} for one in ids])
        keys: Iterable[int] = (await session.execute(select(col(MeterKey.key)))).scalars()
        days = {"channel": 0, "day": 19_844, "reason": 0, "recorded_ms": clock.to_ms(at), "packed": packed}
        await session.execute(insert(ReadingDay), [{"meter_key": key, **days} for key in keys])
    return [Metered(world, account, customer_id, one) for one in ids]


async def test_many_workers_tell_of_each_once(world: World) -> None:
    # After the consent, with which the meters become active.
    at = clock.now() + HOUR
    made = await many_meters(world, 2 * AT_ONCE + 7, at)

    async def work() -> None:
        while await step(world, at + OVERDUE_AFTER):
            pass

    await asyncio.gather(*(work() for _ in range(3)))
    await work()
    subjects = [one.subject_id for one in await told(made[0])]
    assert len(subjects) == len(made)
    assert set(subjects) == {one.meter_id for one in made}
