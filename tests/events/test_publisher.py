"""Commits as other processes learn of them: in order, with the events where they fit, and never in the way."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import clock, failpoints
from app.events.doorbell import Doorbell
from app.events.log import Appended
from app.events.models import EventRecord
from app.events.publisher import DISPATCH_CHANNEL, LARGEST, Growth, Publisher, channel_of, work_due
from tests.live.listening import Listening
from tests.support import World

pytestmark = pytest.mark.both_databases


def event(sequence: int, data: dict[str, Any] | None = None, meter_ids: tuple[str, ...] = ()) -> Appended:
    record = EventRecord(
        account_id="acc_1",
        sequence=sequence,
        id=f"evt_{sequence}",
        type="meter.created",
        occurred_at=clock.now(),
        subject_id="mtr_1",
        customer_id=None if sequence % 2 else "cus_1",
        data=data or {},
    )
    return Appended(record, meter_ids)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), values, max_size=5),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=4),
)
def test_what_was_sent_arrives_or_only_its_numbers(data: dict[str, Any], meter_ids: list[str]) -> None:
    growth = Growth(7, 8, [event(7, data, tuple(meter_ids)), event(8)])
    message = growth.encode()
    assert len(message.encode()) <= LARGEST
    heard = Growth.decode("acc_1", message)
    assert (heard.first, heard.last) == (7, 8)
    if heard.events:
        assert [one.record.model_dump() for one in heard.events] == [
            one.record.model_dump() for one in growth.events
        ]
        assert [one.meter_ids for one in heard.events] == [one.meter_ids for one in growth.events]


def test_a_long_message_is_its_numbers() -> None:
    growth = Growth(1, 1, [event(1, {"text": "é" * 4000})])
    assert growth.encode() == '{"first":1,"last":1}'
    assert Growth.decode("acc_1", growth.encode()) == Growth(1, 1)


def test_what_is_known_already_is_left_out() -> None:
    message = Growth(7, 9, [event(7), event(8), event(9)]).encode()
    heard = Growth.decode("acc_1", message, after=8)
    assert (heard.first, heard.last) == (7, 9)
    assert [one.record.sequence for one in heard.events] == [9]


@pytest.mark.parametrize(
    "message", ["", "[]", "3", "{}", '{"first":1}', '{"first":1,"last":1,"events":[1]}', "x"]
)
def test_anything_else_is_refused(message: str) -> None:
    with pytest.raises(ValueError):
        Growth.decode("acc_1", message)


async def test_commits_ring_in_order_and_many_at_once_ring_once(world: World) -> None:
    async with Doorbell.from_url("memory://") as doorbell, Publisher(world.database, doorbell) as publisher:
        account = await world.account()
        await publisher.close()
        actor = (await world.authenticator.authenticate(account.key)).actor
        writing = Listening(world, hub=None)  # type: ignore[arg-type]
        async with (
            doorbell.listen(channel_of(actor.account_id)) as listener,
            doorbell.listen(DISPATCH_CHANNEL) as dispatch,
        ):
            for _ in range(3):
                await writing.customer(actor)
            await writing.customers(actor, 200)
            await publisher.close()
            heard: list[Growth] = []
            while not heard or heard[-1].last < 204:
                heard.append(Growth.decode(actor.account_id, await anext(listener)))
            assert heard[0].first == 2
            assert [one.first for one in heard[1:]] == [one.last + 1 for one in heard[:-1]]
            for one in heard[:-1]:
                sequences = [event.record.sequence for event in one.events]
                assert sequences == list(range(one.first, one.last + 1))
            assert heard[-1].events == ()
            assert await anext(dispatch) == actor.account_id


async def test_a_listener_of_the_only_process_is_told_directly(world: World) -> None:
    told: list[Appended] = []

    class Local:
        def committed(self, account_id: str, events: Sequence[Appended]) -> None:
            told.extend(events)

    async with (
        Doorbell.from_url("memory://") as doorbell,
        Publisher(world.database, doorbell, Local()) as publisher,
    ):
        account = await world.account()
        actor = (await world.authenticator.authenticate(account.key)).actor
        async with (
            doorbell.listen(channel_of(account.id)) as listener,
            doorbell.listen(DISPATCH_CHANNEL) as dispatch,
        ):
            await Listening(world, hub=None).customer(actor)  # type: ignore[arg-type]
            assert await anext(dispatch) == account.id
            await publisher.close()
            assert (len(listener), [one.record.sequence for one in told]) == (0, [1, 2])


async def test_work_without_an_event_rings_for_the_workers_alone(world: World) -> None:
    async with Doorbell.from_url("memory://") as doorbell, Publisher(world.database, doorbell) as publisher:
        account = await world.account()
        await publisher.close()
        async with doorbell.listen(DISPATCH_CHANNEL) as dispatch:
            async with world.database.transaction() as session:
                work_due(session, account.id)
            assert await anext(dispatch) == account.id


async def test_workers_are_rung_for_work_that_follows_closely(world: World) -> None:
    async with Doorbell.from_url("memory://") as doorbell, Publisher(world.database, doorbell) as publisher:
        account = await world.account()
        await publisher.close()
        async with doorbell.listen(DISPATCH_CHANNEL) as dispatch:
            for is_last in (False, False, True):
                async with world.database.transaction() as session:
                    work_due(session, account.id)
                if is_last:
                    await publisher.close()
                assert await anext(dispatch) == account.id


async def test_the_points_are_reached_around_each_publish(world: World) -> None:
    reached: list[str] = []
    async with Doorbell.from_url("memory://") as doorbell, Publisher(world.database, doorbell):
        failpoints.watchers.append(reached.append)
        try:
            await world.account()
            while "publish.done" not in reached:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
        finally:
            failpoints.watchers.remove(reached.append)
    assert [name for name in reached if name.startswith("publish")] == ["publish.before", "publish.done"]
    assert reached.index("transaction.committed") < reached.index("publish.before")
