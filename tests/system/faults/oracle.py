"""Checks after all crashes, once a clean server has had its time: nothing is lost, nothing is stuck."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlmodel import col
from standardwebhooks import Webhook

from app.consents.models import HostedConsent
from app.customers.models import Customer
from app.delivery.destinations.email.models import EmailSubscription
from app.delivery.queue.models import Delivery, DeliveryAttempt, DeliveryStatus, Replay
from app.events.models import Dispatch, EventRecord, Stream
from app.meters.models import Meter
from app.outbound.mail.models import TransactionalMail
from tests.system.faults.load import Load
from tests.system.faults.rig import Rig, Tenant

PAGE = """query ($after: String) { events(first: 100, after: $after) {
    nodes { id sequence name } pageInfo { hasNextPage endCursor } } }"""


async def rows(rig: Rig, model: Any, account_id: str) -> list[Any]:
    statement = select(model).where(model.account_id == account_id).order_by(*model.__table__.primary_key)
    async with rig.database.reading() as session:
        return list((await session.execute(statement)).scalars())


async def check(rig: Rig, tenant: Tenant, load: Load) -> int:
    """Everything about one account; gives how many of its deliveries arrived more than once."""
    events = await check_log(rig, tenant)
    await check_changes(rig, tenant, load, events)
    deliveries = await check_deliveries(rig, tenant, events)
    await check_other_mail(rig, tenant, load)
    await check_replays(rig, tenant, load, events)
    check_following(tenant, events)
    return check_arrivals(rig, tenant, events, deliveries)


async def check_log(rig: Rig, tenant: Tenant) -> list[EventRecord]:
    """The log is whole and dispatched to its end; gives its events."""
    events: list[EventRecord] = await rows(rig, EventRecord, tenant.id)
    (stream,) = await rows(rig, Stream, tenant.id)
    (dispatch,) = await rows(rig, Dispatch, tenant.id)
    sequences = [event.sequence for event in events]
    assert sequences == list(range(stream.first_sequence, stream.last_sequence + 1))
    assert dispatch.sequence == stream.last_sequence
    times = [event.occurred_at for event in events]
    assert times == sorted(times)
    assert len({event.id for event in events}) == len(events)
    return events


async def check_changes(rig: Rig, tenant: Tenant, load: Load, events: Sequence[EventRecord]) -> None:
    """All answered changes are there; every change has its event, and every event its change."""
    customers: list[Customer] = await rows(rig, Customer, tenant.id)
    meters: list[Meter] = await rows(rig, Meter, tenant.id)
    consents: list[HostedConsent] = await rows(rig, HostedConsent, tenant.id)
    approved = [one.id for one in consents if one.consented_at is not None]
    subjects = defaultdict(list)
    for event in events:
        subjects[event.type].append(event.subject_id)
    assert sorted(subjects["customer.created"]) == sorted(one.id for one in customers)
    assert sorted(subjects["meter.created"]) == sorted(one.id for one in meters)
    assert sorted(subjects["hosted_consent.approved"]) == sorted(approved)

    assert set(load.answered["createCustomer"]) <= {one.id for one in customers}
    assert set(load.answered["createMeter"]) <= {one.id for one in meters}
    assert set(load.answered["createHostedConsent"]) <= {one.id for one in consents}
    assert set(load.answered["approveHostedConsent"]) == set(approved)
    emails = Counter(one.email for one in customers)
    assert load.promised["createCustomer"] <= emails.keys() <= load.asked["createCustomer"]
    assert set(emails.values()) <= {1}
    # An approval is one transaction: its two meters, then itself.
    by_sequence = {event.sequence: event for event in events}
    for event in events:
        if event.type == "hosted_consent.approved":
            before = [by_sequence[event.sequence - 2], by_sequence[event.sequence - 1]]
            assert [one.type for one in before] == ["meter.created"] * 2
            assert [one.subject_id for one in before] == event.data["meterIds"]


async def check_deliveries(rig: Rig, tenant: Tenant, events: Sequence[EventRecord]) -> list[Delivery]:
    """Each event has a single delivery to each destination, and it succeeded."""
    deliveries: list[Delivery] = await rows(rig, Delivery, tenant.id)
    assert {one.status for one in deliveries} <= {DeliveryStatus.SUCCEEDED.value}
    assert {one.due_at for one in deliveries} | {one.leased_until for one in deliveries} <= {None}
    wanted = Counter(
        (event.id, destination)
        for event in events
        if event.sequence > tenant.start
        for destination in (tenant.endpoint_id, tenant.subscription_id)
    )
    assert Counter((one.event_id, one.destination_id) for one in deliveries if not one.replay_id) == wanted
    statement = select(col(DeliveryAttempt.delivery_id), col(DeliveryAttempt.number))
    async with rig.database.reading() as session:
        numbers = defaultdict(list)
        for delivery_id, number in await session.execute(statement):
            numbers[delivery_id].append(number)
    for one in deliveries:
        assert sorted(numbers[one.id]) == list(range(1, one.attempts_made + 1)) != []
    return deliveries


async def check_other_mail(rig: Rig, tenant: Tenant, load: Load) -> None:
    """Every address that was to be asked was asked."""
    subscriptions: list[EmailSubscription] = await rows(rig, EmailSubscription, tenant.id)
    assert set(load.answered["createEmailSubscription"]) <= {one.id for one in subscriptions}
    mails: list[TransactionalMail] = await rows(rig, TransactionalMail, tenant.id)
    asked = [one.email for one in subscriptions if one.id != tenant.subscription_id]
    assert Counter(mail.recipient for mail in mails) == Counter(asked)
    assert load.promised["createEmailSubscription"] <= set(asked) <= load.asked["createEmailSubscription"]
    assert {(mail.due_at, mail.content_encrypted, mail.error) for mail in mails} <= {(None, None, None)}
    sent = {one for incarnation in rig.incarnations for one in incarnation.mails}
    assert {mail.id for mail in mails} <= sent


async def check_replays(rig: Rig, tenant: Tenant, load: Load, events: Sequence[EventRecord]) -> None:
    """Every replay that was asked for is there once and has sent all that it was to send."""
    replays: list[Replay] = await rows(rig, Replay, tenant.id)
    assert [one.id for one in replays] == sorted(set(load.answered["replayEvents"]))
    arrived = defaultdict(set)
    for request in rig.receiver.to(f"/{tenant.id}"):
        arrived[request.headers.get("voltwire-replay-id")].add(request.headers["webhook-id"])
    for replay in replays:
        assert (replay.position, replay.is_cancelled) == (replay.through, False)
        assert arrived[replay.id] == {
            event.id for event in events if tenant.start < event.sequence <= replay.through
        }


def check_following(tenant: Tenant, events: Sequence[EventRecord]) -> None:
    """The consumer on its socket has every event once, in order, through all its servers."""
    got = [(event["sequence"], event["id"]) for event in tenant.following.events]
    assert got == [(event.sequence, event.id) for event in events if event.sequence > tenant.start]


def check_arrivals(
    rig: Rig, tenant: Tenant, events: Sequence[EventRecord], deliveries: Sequence[Delivery]
) -> int:
    """Every delivery arrived; more than once only where a server was killed before it had written it down."""
    by_id = {event.id: event for event in events}
    known = {one.id: one for one in deliveries}
    arrivals: dict[str, list[int]] = defaultdict(list)
    recorded: set[str] = set()
    signed = Webhook(tenant.endpoint_secret)
    for number, incarnation in enumerate(rig.incarnations):
        came = []
        for request in incarnation.requests:
            if request.path != f"/{tenant.id}":
                continue
            signed.verify(request.body, request.headers)
            delivery = known[request.headers["voltwire-delivery-id"]]
            event = by_id[request.headers["webhook-id"]]
            body = request.json()
            assert delivery.event_id == event.id == body["id"]
            assert (body["sequence"], body["type"], body["data"]) == (event.sequence, event.type, event.data)
            came.append(delivery.id)
        came += [one for one in incarnation.mails if one in known]
        # No server sends anything twice, and none what an earlier one has written down.
        assert len(set(came)) == len(came)
        assert not recorded & set(came)
        for delivery_id in came:
            arrivals[delivery_id].append(number)
        recorded = incarnation.recorded
    assert arrivals.keys() == known.keys()
    repeated = {delivery_id: numbers for delivery_id, numbers in arrivals.items() if len(numbers) > 1}
    for numbers in repeated.values():
        assert all(rig.incarnations[number].killed for number in numbers[:-1])
    return len(repeated)


async def check_pages(rig: Rig, tenant: Tenant) -> None:
    """A reader of `events`, page by page, has every event once; a server must be running."""
    got, after = [], tenant.cursor
    while True:
        page = (await tenant.api.data(PAGE, after=after))["events"]
        got += [(node["sequence"], node["id"], node["name"]) for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    events = await rows(rig, EventRecord, tenant.id)
    assert got == [
        (event.sequence, event.id, event.type) for event in events if event.sequence > tenant.start
    ]
