"""The dispatcher: one delivery per event and matching destination, whatever crashes or runs beside it."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from app.delivery.destinations.email.models import EmailSubscriptionStatus
from app.delivery.destinations.kinds import KINDS
from app.delivery.destinations.webhook.models import EndpointStatus
from app.delivery.metadata import METADATA
from app.delivery.queue.dispatch import EVENTS_AT_ONCE, Dispatcher
from app.delivery.queue.models import DeliveryStatus, Lane
from app.events.event_type_filter import takes_type
from app.events.models import Dispatch
from tests.delivery.scene import Scene, open_scene

pytestmark = pytest.mark.both_databases

URL = "https://example.com/hook"


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url) as opened:
        yield opened


def dispatcher(scene: Scene, mark_due: Any = lambda *_: None) -> Dispatcher:
    return Dispatcher(scene.database, KINDS, METADATA, mark_due)


async def position(scene: Scene, account_id: str) -> int:
    sequence: int = (await scene.row(Dispatch, account_id)).sequence
    return sequence


async def test_each_event_makes_one_delivery_per_destination_that_takes_it(scene: Scene) -> None:
    account = await scene.account()
    all_of_it = await scene.endpoint(account, URL)
    chosen = await scene.endpoint(account, URL, event_types=["meter.*", "customer.created"])
    await scene.endpoint(account, URL, event_types=["meter_data.received"])
    mail = await scene.subscription(account, "ada@example.com", event_types=["customer.*"])
    first, second = await scene.happen(account, 2)
    marked: list[tuple[Collection[str], int]] = []

    # The account's own user.created came before the destinations.
    assert await dispatcher(scene, lambda *due: marked.append(due)).run() == 3

    takers = {all_of_it.id, chosen.id, mail}
    assert marked == [(takers, Lane.FRESH)]
    deliveries = await scene.deliveries()
    assert sorted((one.event_id, one.destination_id) for one in deliveries) == sorted(
        (event.id, taker) for event in (first, second) for taker in takers
    )
    for one in deliveries:
        assert one.account_id == account
        assert one.event_sequence == (2 if one.event_id == first.id else 3)
        assert (one.event_type, one.replay_id, one.lane) == ("customer.created", "", Lane.FRESH)
        assert (one.status, one.attempts_made, one.fence) == (DeliveryStatus.PENDING.value, 0, 0)
        assert one.due_at == one.created_at
    assert await position(scene, account) == 3


async def test_who_did_not_ring_waits_for_the_look_at_everyone(scene: Scene) -> None:
    rang, silent = await scene.account(), await scene.account()
    for account in (rang, silent):
        await scene.endpoint(account, URL)
        await scene.happen(account, 2)
    assert await dispatcher(scene).run({rang, "acc_unknown"}) == 3
    assert (await position(scene, rang), await position(scene, silent)) == (3, 0)
    assert await dispatcher(scene).run(set()) == 0
    assert await dispatcher(scene).run() == 3
    assert await position(scene, silent) == 3


async def test_who_rang_without_destinations_waits_for_the_look_at_everyone(scene: Scene) -> None:
    account, other = await scene.account(), await scene.account()
    await scene.endpoint(account, URL, status=EndpointStatus.DISABLED.value)
    await scene.endpoint(other, URL)
    await scene.happen(account, 2)
    one = dispatcher(scene)
    assert await one.run_for({account, "acc_unknown"}) == 1
    # It rang for something else than an event.
    assert await one.run_for({account}) == 0
    await scene.happen(account)
    assert await one.run_for({account}) == 1
    assert (await position(scene, account), await position(scene, other)) == (0, 0)
    assert await one.run_for({account, other}) == 1
    assert (await position(scene, account), await position(scene, other)) == (0, 1)
    assert await one.run() == 4
    await scene.happen(account)
    assert await one.run_for({account}) == 1

    # A destination that is made meanwhile takes what comes after it.
    made = await scene.subscription(account, "ada@example.com")
    (after,) = await scene.happen(account)
    assert await one.run_for({account}) == 2
    assert [(due.event_id, due.destination_id) for due in await scene.deliveries()] == [(after.id, made)]
    assert await one.run_for({account, other}) == 0
    assert await one.run_for(set()) == 0


async def test_more_than_a_page_is_dispatched_for_who_rang(scene: Scene) -> None:
    account = await scene.account()
    await scene.endpoint(account, URL)
    await scene.happen(account, EVENTS_AT_ONCE + 3)
    assert await dispatcher(scene).run({account}) == EVENTS_AT_ONCE + 4
    assert len(await scene.deliveries()) == EVENTS_AT_ONCE + 3


async def test_destinations_that_take_nothing_now_are_passed_over(scene: Scene) -> None:
    account, other = await scene.account(), await scene.account()
    await scene.endpoint(account, URL, status=EndpointStatus.DISABLED.value)
    await scene.subscription(account, "a@example.com", status=EmailSubscriptionStatus.PENDING.value)
    await scene.subscription(account, "b@example.com", status=EmailSubscriptionStatus.UNSUBSCRIBED.value)
    await scene.endpoint(other, URL)
    await scene.happen(account)

    assert await dispatcher(scene).run() == 3
    assert await scene.deliveries() == []
    assert await position(scene, account) == 2


async def test_a_destination_gets_nothing_from_before_its_making(scene: Scene) -> None:
    account = await scene.account()
    early = await scene.endpoint(account, URL)
    await scene.happen(account)
    late = await scene.endpoint(account, URL)
    (after,) = await scene.happen(account)

    await dispatcher(scene).run()
    assert len(await scene.deliveries(destination_id=early.id)) == 2
    assert [one.event_id for one in await scene.deliveries(destination_id=late.id)] == [after.id]


async def test_what_is_not_committed_is_dispatched_again(scene: Scene) -> None:
    account = await scene.account()
    await scene.endpoint(account, URL)
    await scene.happen(account)

    def crash() -> None:
        raise RuntimeError("crashed")

    scene.points.on["dispatch.before_commit"] = crash
    with pytest.raises(RuntimeError, match="crashed"):
        await dispatcher(scene).run()
    assert await scene.deliveries() == []
    assert await position(scene, account) == 0

    del scene.points.on["dispatch.before_commit"]
    assert await dispatcher(scene).run() == 2
    assert len(await scene.deliveries()) == 1
    assert await dispatcher(scene).run() == 0


async def test_a_backlog_does_not_hold_up_another_account(scene: Scene) -> None:
    busy, quiet = await scene.account(), await scene.account()
    first, second = await scene.endpoint(busy, URL), await scene.endpoint(quiet, URL)
    await scene.happen(busy, EVENTS_AT_ONCE + 400)
    await scene.happen(quiet)
    rounds: list[Collection[str]] = []

    assert (
        await dispatcher(scene, lambda destinations, _: rounds.append(destinations)).run()
        == EVENTS_AT_ONCE + 403
    )
    # Both accounts had their turn at once, and the backlog went on by itself.
    assert rounds == [{first.id, second.id}, {first.id}, {first.id}]
    sequences = [one.event_sequence for one in await scene.deliveries(destination_id=first.id)]
    assert sequences == list(range(2, EVENTS_AT_ONCE + 402))


async def test_two_dispatchers_at_once_make_each_delivery_once(scene: Scene) -> None:
    accounts = [await scene.account() for _ in range(8)]
    for account in accounts:
        await scene.endpoint(account, URL)
        await scene.happen(account, 30)

    counts = await asyncio.gather(*(dispatcher(scene).run() for _ in range(4)))
    # Dispatchers that found everything locked left early, and another did the rest.
    assert sum(counts) == 8 * 31
    deliveries = await scene.deliveries()
    assert len({(one.event_id, one.destination_id) for one in deliveries}) == len(deliveries) == 240


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        (None, True),
        ([], False),
        (["*"], True),
        (["meter.created"], True),
        (["meter.*"], True),
        (["meter_data.*", "customer.created"], False),
        (["meter*"], False),
        (["meter.create"], False),
    ],
)
def test_patterns_of_event_types(patterns: list[str] | None, taken: bool) -> None:
    assert takes_type(patterns, "meter.created") is taken
