import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.core import clock
from app.core.crypto import digest
from app.delivery.destinations.email import link_actions, subscriptions
from app.delivery.destinations.email.link_actions import Confirmation
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.outbound.mail.link_tokens import Unsubscribe
from tests.accounts.state import refusals, unchanged
from tests.delivery.asking import (
    CREATE_SUBSCRIPTION,
    DELETE_SUBSCRIPTION,
    RESEND,
    SUBSCRIPTION,
    UPDATE_SUBSCRIPTION,
    confirmation_token,
    deliveries_of,
    dispatch,
    make_events,
    make_subscription,
    outgoing_mails,
    subscription_row,
)
from tests.meters.asking import run
from tests.support import World

NOT_THERE = "ems_01jdf3w8q2k7c9v5m1x0a4b6d8"


async def confirm(world: World, token: str) -> Confirmation:
    async with world.database.transaction() as session:
        return (await link_actions.confirm(session, world.services.keyring, token)).state


async def unsubscribe(world: World, subscription_id: str) -> None:
    async with world.database.transaction() as session:
        await link_actions.unsubscribe(session, world.services.keyring, Unsubscribe(subscription_id, None))


async def change(world: World, subscription_id: str | None = None, **values: Any) -> None:
    """Every subscription, or one, as if time had passed or the worker had been there."""
    statement = update(EmailSubscription).values(**values)
    if subscription_id is not None:
        statement = statement.where(col(EmailSubscription.id) == subscription_id)
    async with world.database.transaction() as session:
        await session.execute(statement)


async def a_minute_later(world: World) -> None:
    await change(world, confirm_sent_at=clock.now() - subscriptions.RESEND_AFTER)


async def test_a_subscription_waits_for_its_address(world: World) -> None:
    account = await world.account()
    payload = await run(
        world,
        account,
        CREATE_SUBSCRIPTION,
        email=" Grace@Example.COM ",
        description="The night shift",
        eventTypes=["meter.*"],
    )
    subscription = payload["emailSubscription"]
    assert payload["userErrors"] == []
    assert subscription == {
        "id": subscription["id"],
        "email": "Grace@example.com",
        "description": "The night shift",
        "eventTypes": ["meter.*"],
        "status": "PENDING",
        "suspendedReason": None,
        "createdAt": subscription["createdAt"],
        "updatedAt": subscription["updatedAt"],
    }
    [(recipient, mail)] = await outgoing_mails(world)
    assert recipient == "Grace@example.com"
    token = await confirmation_token(world)
    assert f"http://127.0.0.1:8000/email-subscriptions/confirm/{token}" in mail["html"]
    row = await subscription_row(world, subscription["id"])
    assert row.confirm_hash == digest(token)
    assert row.confirm_sent_at is not None
    assert row.confirm_until == row.confirm_sent_at + timedelta(hours=48)
    query = f"query ($id: ID!) {{ emailSubscription(id: $id) {{ {SUBSCRIPTION} }} node(id: $id) {{ id }} }}"
    data = await world.data(query, {"id": subscription["id"]}, key=account.key)
    assert data == {"emailSubscription": subscription, "node": {"id": subscription["id"]}}


async def test_a_confirmed_one_gets_the_events_from_then_on(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    await make_events(world, account, "Before")
    await dispatch(world)
    assert await deliveries_of(world, subscription_id) == []
    await make_events(world, account, "Undispatched")
    assert await confirm(world, await confirmation_token(world)) is Confirmation.DONE
    await make_events(world, account, "After")
    await dispatch(world)
    assert (await subscription_row(world, subscription_id)).status == "ACTIVE"
    assert [one.event_sequence for one in await deliveries_of(world, subscription_id)] == [4]


async def test_confirming_again_changes_nothing(world: World) -> None:
    account = await world.account()
    await make_subscription(world, account)
    token = await confirmation_token(world)
    await confirm(world, token)
    await make_events(world, account, "Ada")
    async with unchanged(world):
        assert await confirm(world, token) is Confirmation.DONE


async def test_after_two_days_the_confirmation_has_expired(world: World) -> None:
    account = await world.account()
    await make_subscription(world, account)
    await change(world, confirm_until=clock.now())
    async with unchanged(world):
        assert await confirm(world, await confirmation_token(world)) is Confirmation.EXPIRED
        assert await confirm(world, "vw_confirm_made-up") is Confirmation.UNKNOWN


@pytest.mark.parametrize(
    ("email", "code"),
    [
        ("", "REQUIRED"),
        ("grace", "INVALID"),
        ("grace@example.com\r\nBcc: all@example.com", "INVALID"),
        ("Grace <grace@example.com>", "INVALID"),
        ("grace@example..com", "INVALID"),
        ("grace@example", "INVALID"),
        ("s@h", "INVALID"),
        ("grace@-example.com", "INVALID"),
        ("grace@example.c", "INVALID"),
        ("grace@10.0.0.1", "INVALID"),
        ("grace@example.co.uk", None),
        ("grace@localhost", None),
        (f"{'g' * 64}@{'e' * 185}.com", "INVALID"),
        (f"{'g' * 64}@{'e' * 186}.com", "TOO_LONG"),
    ],
)
async def test_what_is_no_mail_address_is_refused(world: World, email: str, code: str | None) -> None:
    account = await world.account()
    if code is None:
        await make_subscription(world, account, email)
        return
    async with unchanged(world):
        payload = await run(world, account, CREATE_SUBSCRIPTION, email=email)
    assert refusals(payload) == [(code, ["email"])]


async def test_bad_event_types_and_descriptions_are_refused(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    for values, expected in (
        ({"eventTypes": []}, ("REQUIRED", ["eventTypes"])),
        ({"eventTypes": ["*", "METER_CREATED"]}, ("INVALID", ["eventTypes", "1"])),
        ({"description": "x" * 2001}, ("TOO_LONG", ["description"])),
    ):
        async with unchanged(world):
            payload = await run(world, account, CREATE_SUBSCRIPTION, email="a@example.com", **values)
            assert refusals(payload) == [expected]
            payload = await run(
                world, account, UPDATE_SUBSCRIPTION, emailSubscriptionId=subscription_id, **values
            )
            assert refusals(payload) == [expected]


async def test_an_address_has_one_subscription_in_an_account(world: World) -> None:
    account, other = await world.account(), await world.account()
    first = await make_subscription(world, account, "Grace@example.com")
    async with unchanged(world):
        payload = await run(world, account, CREATE_SUBSCRIPTION, email="grace@EXAMPLE.com")
        assert refusals(payload) == [("TAKEN", ["email"])]
    await make_subscription(world, other, "grace@example.com")
    # A subscription that was ended before there was a list cannot come back beside its successor.
    await change(world, first, status="UNSUBSCRIBED")
    successor = await make_subscription(world, account, "ada@example.com")
    await change(world, successor, email="grace@example.com")
    await a_minute_later(world)
    async with unchanged(world):
        payload = await run(world, account, RESEND, emailSubscriptionId=first)
        assert refusals(payload) == [("TAKEN", ["emailSubscriptionId"])]


@pytest.mark.both_databases
async def test_of_two_at_the_same_time_one_is_refused(world: World) -> None:
    account = await world.account()
    both = await asyncio.gather(
        *(run(world, account, CREATE_SUBSCRIPTION, email="grace@example.com") for _ in range(2))
    )
    assert sorted(one["emailSubscription"] is None for one in both) == [False, True]
    assert len(await outgoing_mails(world)) == 1


async def test_an_account_has_a_thousand_subscriptions_at_most(world: World) -> None:
    account = await world.account()
    async with world.database.transaction() as session:
        session.add_all(
            EmailSubscription(account_id=account.id, email=f"reader{number}@example.com")
            for number in range(subscriptions.MAX_SUBSCRIPTIONS)
        )
    async with unchanged(world):
        payload = await run(world, account, CREATE_SUBSCRIPTION, email="grace@example.com")
    assert refusals(payload) == [("LIMIT_REACHED", [])]


async def test_an_update_changes_what_is_given_only(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account, description="Old", eventTypes=["meter.*"])
    payload = await run(
        world, account, UPDATE_SUBSCRIPTION, emailSubscriptionId=subscription_id, eventTypes=None
    )
    changed = payload["emailSubscription"]
    assert (changed["description"], changed["eventTypes"]) == ("Old", None)
    payload = await run(
        world, account, UPDATE_SUBSCRIPTION, emailSubscriptionId=subscription_id, description=None
    )
    assert payload["emailSubscription"]["description"] is None
    assert len(await outgoing_mails(world)) == 1


async def test_a_confirmation_is_sent_again_with_another_token_once_a_minute(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    old = await confirmation_token(world)
    async with unchanged(world):
        payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
        assert refusals(payload) == [("LIMIT_REACHED", ["emailSubscriptionId"])]
    await a_minute_later(world)
    payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
    assert payload["emailSubscription"]["status"] == "PENDING"
    new = await confirmation_token(world)
    assert len(await outgoing_mails(world)) == 2
    assert await confirm(world, old) is Confirmation.UNKNOWN
    assert await confirm(world, new) is Confirmation.DONE
    await a_minute_later(world)
    async with unchanged(world):
        payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
        assert refusals(payload) == [("CONFLICT", ["emailSubscriptionId"])]


async def test_one_that_was_suspended_must_confirm_anew(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    old = await confirmation_token(world)
    await confirm(world, old)
    await change(world, status="SUSPENDED", suspended_reason="There is no such mailbox.")
    async with unchanged(world):
        assert await confirm(world, old) is Confirmation.EXPIRED
    await a_minute_later(world)
    payload = await run(world, account, RESEND, emailSubscriptionId=subscription_id)
    asked = payload["emailSubscription"]
    assert (asked["status"], asked["suspendedReason"]) == ("PENDING", None)
    await make_events(world, account, "Missed")
    assert await confirm(world, await confirmation_token(world)) is Confirmation.DONE
    await dispatch(world)
    assert await deliveries_of(world, subscription_id) == []


async def test_unsubscribing_cancels_what_waits_and_may_be_repeated(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    await confirm(world, await confirmation_token(world))
    await make_events(world, account, "Ada")
    await dispatch(world)
    await unsubscribe(world, subscription_id)
    [delivery] = await deliveries_of(world, subscription_id)
    assert (delivery.status, delivery.due_at) == ("CANCELLED", None)
    assert delivery.finished_at is not None
    assert (await subscription_row(world, subscription_id)).status == (
        EmailSubscriptionStatus.UNSUBSCRIBED.value
    )
    async with unchanged(world):
        await unsubscribe(world, subscription_id)
        await unsubscribe(world, NOT_THERE)


async def test_a_deleted_one_leaves_its_deliveries(world: World) -> None:
    account = await world.account()
    subscription_id = await make_subscription(world, account)
    await confirm(world, await confirmation_token(world))
    await make_events(world, account, "Ada")
    await dispatch(world)
    payload = await run(world, account, DELETE_SUBSCRIPTION, emailSubscriptionId=subscription_id)
    assert payload == {"deletedId": subscription_id, "userErrors": []}
    query = """query ($id: ID!) {
        emailSubscription(id: $id) { id }
        deliveries(filter: {emailSubscriptionId: $id}) { nodes { status emailSubscription { id } } }
    }"""
    assert await world.data(query, {"id": subscription_id}, key=account.key) == {
        "emailSubscription": None,
        "deliveries": {"nodes": [{"status": "CANCELLED", "emailSubscription": None}]},
    }


async def test_another_accounts_subscription_is_not_there(world: World) -> None:
    account, other = await world.account(), await world.account()
    subscription_id = await make_subscription(world, account)
    async with unchanged(world):
        for document, values in (
            (UPDATE_SUBSCRIPTION, {"description": "mine"}),
            (DELETE_SUBSCRIPTION, {}),
            (RESEND, {}),
        ):
            theirs = await run(world, other, document, emailSubscriptionId=subscription_id, **values)
            unknown = await run(world, other, document, emailSubscriptionId=NOT_THERE, **values)
            assert theirs == unknown
            assert refusals(theirs) == [("NOT_FOUND", ["emailSubscriptionId"])]
    query = "query ($id: ID!) { emailSubscription(id: $id) { id } emailSubscriptions { nodes { id } } }"
    assert await world.data(query, {"id": subscription_id}, key=other.key) == {
        "emailSubscription": None,
        "emailSubscriptions": {"nodes": []},
    }
