"""Approved consents that run out: told once each, at their instant, whatever workers do; and the past is left alone."""

import asyncio
from datetime import timedelta

import pytest

from app.consents import decisions
from app.consents.expiries import AT_ONCE, Expiries
from app.consents.models import ConsentStatus
from app.core import clock
from app.core.errors import Refusal
from tests.accounts.state import events as whole_log
from tests.consents.helpers import GAS, OTHER, ask_again, ask_for_consent, event_names, events, meters
from tests.core.killed import killed_at
from tests.events.upgraded import upgraded_at
from tests.meters.asking import make_consent, make_customer
from tests.support import World

pytestmark = pytest.mark.both_databases

EXPIRED = "hosted_consent.expired"
MILLISECOND = timedelta(milliseconds=1)


async def test_a_consent_that_ran_out_is_told_of_once(world: World) -> None:
    await upgraded_at(world)
    asked = await ask_for_consent(world, meter_numbers=[OTHER, GAS])
    await asked.approve()
    await asked.expire()
    expiries = Expiries(world.database)
    assert [await expiries.step() for _ in range(2)] == [True, False]
    *_, approved, expired = await events(world, asked.account_id)
    consent = await asked.stored()
    assert expired.type == EXPIRED
    assert expired.data == {
        **approved.data,
        "status": "EXPIRED",
        "expiry": consent.expiry.isoformat(),
    }
    assert expired.data["meterIds"] == [one.id for one in await meters(world, asked.account_id)]
    assert (expired.subject_id, expired.customer_id) == (consent.id, asked.customer.id)


async def test_it_is_told_of_at_the_end_of_its_last_day_and_not_before(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    end = (await asked.stored()).expires_at
    assert not await Expiries(world.database, lambda: end - MILLISECOND).step()
    assert await Expiries(world.database, lambda: end).step()
    assert (await event_names(world, asked.account_id))[-1] == EXPIRED


async def test_only_what_was_given_and_is_in_force_runs_out(world: World) -> None:
    await upgraded_at(world)
    pending, declined, revoked = [await ask_for_consent(world) for _ in range(3)]
    await declined.decline()
    await revoked.approve()
    await revoked.revoke()
    for asked in (pending, declined, revoked):
        await asked.expire()
    assert not await Expiries(world.database).step()
    for asked in (pending, declined, revoked):
        assert EXPIRED not in await event_names(world, asked.account_id)


async def test_what_ran_out_before_the_upgrade_stays_untold(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    await asked.expire()
    await upgraded_at(world, (await asked.stored()).expires_at)
    assert not await Expiries(world.database).step()
    await upgraded_at(world, (await asked.stored()).expires_at - MILLISECOND)
    assert await Expiries(world.database).step()


async def test_many_workers_tell_of_each_once(world: World) -> None:
    await upgraded_at(world)
    accounts = [await world.account() for _ in range(2)]
    expected: dict[str, set[str]] = {account.id: set() for account in accounts}
    for account in accounts:
        customer_id = await make_customer(world, account)
        for _ in range(AT_ONCE):
            past = clock.now() - timedelta(days=1)
            expected[account.id].add(await make_consent(world, account, customer_id, until=past))

    async def work() -> None:
        expiries = Expiries(world.database)
        while await expiries.step():
            pass

    await asyncio.gather(*(work() for _ in range(3)))
    # A worker that found all others locked leaves them to the next turn.
    await work()
    for account in accounts:
        told = [one.subject_id for one in await whole_log(world, account.id) if one.type == EXPIRED]
        assert len(told) == AT_ONCE
        assert set(told) == expected[account.id]


@pytest.mark.parametrize("point", ["expiries.before_commit", "log.written", "expiries.committed"])
async def test_a_crash_tells_of_none_twice_and_forgets_none(world: World, point: str) -> None:
    await upgraded_at(world)
    asked = await ask_for_consent(world)
    await asked.approve()
    await asked.expire()
    with killed_at(point):
        await Expiries(world.database).step()
    is_told = point == "expiries.committed"
    assert (EXPIRED in await event_names(world, asked.account_id)) is is_told
    assert await Expiries(world.database).step() is not is_told
    assert (await event_names(world, asked.account_id)).count(EXPIRED) == 1


async def test_one_that_is_revoked_at_this_moment_is_not_told_of(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    end = (await asked.stored()).expires_at
    expiries = Expiries(world.database, lambda: end)
    async with world.database.transaction() as session:
        await decisions.revoke(session, asked.actor, asked.consent.id)
        await session.flush()
        step = asyncio.create_task(expiries.step())
        if not world.database.is_sqlite:
            # It passes over the locked row. On SQLite it waits for this transaction.
            assert not await step
    assert not await step
    assert not await expiries.step()
    assert EXPIRED not in await event_names(world, asked.account_id)


async def test_a_newer_consent_does_not_hide_the_end_of_an_older_one(world: World) -> None:
    await upgraded_at(world)
    older = await ask_for_consent(world)
    await older.approve()
    newer = await ask_again(world, older.account_id, older.key, older.actor, older.customer)
    await newer.approve()
    await older.expire()
    assert await Expiries(world.database).step()
    (told,) = [one for one in await events(world, older.account_id) if one.type == EXPIRED]
    assert told.subject_id == older.consent.id
    assert (await newer.stored()).status(clock.now()) is ConsentStatus.APPROVED


async def test_an_expired_consent_is_not_revoked_after_it_was_told_of(world: World) -> None:
    await upgraded_at(world)
    asked = await ask_for_consent(world)
    await asked.approve()
    await asked.expire()
    assert await Expiries(world.database).step()
    with pytest.raises(Refusal):
        await asked.revoke()
    assert (await event_names(world, asked.account_id))[-1] == EXPIRED
