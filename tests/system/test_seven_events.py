"""The main job: a change becomes an event that reaches sockets, an event stream, a webhook and a mailbox.

Played through real processes by real clients, on one process with SQLite and on several with PostgreSQL.
"""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from standardwebhooks import Webhook

from tests.services.patience import PATIENCE
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver, Request
from tests.services.smtp import Mail, SmtpSink
from tests.services.valkey import Valkey
from tests.system.clients import Api, EventStream, Socket, event_stream, eventually, socket
from tests.system.deployment import Deployment, Role, deployed

READER = "ops@bright.example"
METER = "2499999999991"
EXPECTED = [
    "customer.created",
    "meter.created",
    "hosted_consent.approved",
    "meter_data.received",
    "meter_data.received",
    "hosted_consent.revoked",
    "user.created",
    "api_keys.rotated",
]
SUBJECTS = [
    "New customer: Ada Lovelace",
    f"New meter {METER} of Ada Lovelace",
    "Ada Lovelace approved access to 1 meter until {expiry}",
    f"Data arrived for meter {METER} of Ada Lovelace: 2 half-hours",
    f"Data arrived for meter {METER} of Ada Lovelace: 1 half-hour",
    "Consent of Ada Lovelace revoked: no more new data for 1 meter",
    "New user: Grace Hopper (member)",
    "API key “Reporting” has a new secret",
]
DATA_KEYS = {
    "meter_data.received": {"meterId", "customerId", "from", "to", "intervalCount"}
    | {"channel", "reason", "estimatedCount", "backfillId", "part", "parts"},
    "api_keys.rotated": {"apiKeyId", "prefix", "previousPrefix", "overlapUntil"},
}
DELIVERIES = """
query ($filter: DeliveryFilter) {
  deliveries(first: 100, filter: $filter) {
    nodes {
      id status nextAttemptAt event { id sequence } endpoint { id } emailSubscription { id }
      attempts { number outcome responseStatus error }
    }
  }
}
"""


@pytest.fixture(params=["sqlite + memory", "postgresql + valkey", "postgresql alone"])
async def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, smtp_sink: SmtpSink
) -> AsyncIterator[Deployment]:
    if request.param == "sqlite + memory":
        async with deployed(["serve"], tmp_path, smtp_url=smtp_sink.url) as running:
            yield running
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    database_url = await postgres.create_database()
    broadcast_url = database_url
    if request.param == "postgresql + valkey":
        valkey: Valkey = request.getfixturevalue("valkey")
        broadcast_url = valkey.url
    roles: list[Role] = ["api", "api", "worker", "worker"]
    async with deployed(roles, tmp_path, database_url, broadcast_url, smtp_url=smtp_sink.url) as running:
        yield running
    await postgres.drop_database(database_url)


@dataclass
class Scene:
    """An account, its clients on every API process, and where its events are delivered to."""

    apis: list[Api]
    sockets: list[Socket]
    stream: EventStream
    receiver: Receiver
    sink: SmtpSink
    endpoint_id: str
    secret: str
    subscription_id: str
    secrets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = cycle(self.apis)

    @property
    def api(self) -> Api:
        """The processes in turn."""
        return next(self._next)

    async def deliveries(self, count: int, **which: Any) -> list[dict[str, Any]]:
        """The deliveries that a filter takes, oldest first, once there are `count` and none is waiting."""

        async def look() -> list[dict[str, Any]] | None:
            nodes = (await self.api.data(DELIVERIES, filter=which))["deliveries"]["nodes"]
            finished = [one for one in nodes if one["status"] != "PENDING"]
            return nodes[::-1] if len(finished) == len(nodes) == count else None

        return await eventually(look)


@contextlib.asynccontextmanager
async def scene(deployment: Deployment, receiver: Receiver, sink: SmtpSink) -> AsyncIterator[Scene]:
    account = await deployment.account()
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(Api(process.url, account.key)) for process in deployment.apis]
        made = await apis[0].mutate(
            "createWebhookEndpoint", "webhookEndpoint { id } secret", url=receiver.url("/events")
        )
        subscription_id = await subscribe_by_mail(apis[-1], sink)
        after = await apis[-1].latest_cursor()
        sockets = [
            await stack.enter_async_context(socket(process.socket_url, account.key))
            for process in deployment.apis
        ]
        for one in sockets:
            await one.subscribe(after=after)
        stream = await stack.enter_async_context(event_stream(apis[-1], after=after))
        deployment.secrets.append(made["secret"])
        yield Scene(
            apis, sockets, stream, receiver, sink,
            made["webhookEndpoint"]["id"], made["secret"], subscription_id, deployment.secrets,
        )  # fmt: skip


async def subscribe_by_mail(api: Api, sink: SmtpSink) -> str:
    """A subscription to every event, confirmed by the link in the mail as its reader would."""
    made = await api.mutate("createEmailSubscription", "emailSubscription { id status }", email=READER)
    assert made["emailSubscription"]["status"] == "PENDING"
    (mail,) = await sink.wait_for(1)
    assert mail.recipients == [READER]
    assert mail.subject == "Confirm: mails about events of Bright Energy"
    (link,) = re.findall(r"http://\S+/email-subscriptions/confirm/\S+", mail.text)
    assert link in mail.html
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as browser:
        page = await browser.get(link)
        assert page.status_code == 200
        assert await status_of(api, made["emailSubscription"]["id"]) == "PENDING"
        assert (await browser.post(link)).status_code == 200
    assert await status_of(api, made["emailSubscription"]["id"]) == "ACTIVE"
    sink.clear()
    subscription_id: str = made["emailSubscription"]["id"]
    return subscription_id


async def status_of(api: Api, subscription_id: str) -> str:
    found = await api.data("query ($id: ID!) { emailSubscription(id: $id) { status } }", id=subscription_id)
    status: str = found["emailSubscription"]["status"]
    return status


async def play(scene: Scene) -> datetime:
    """The seven events and one more, each made through the next API process; the consent's expiry."""
    customer = (
        await scene.api.mutate(
            "createCustomer", "customer { id }", name="Ada Lovelace", email="ada@example.com"
        )
    )["customer"]["id"]
    meter = (await scene.api.mutate("createMeter", "meter { id }", customerId=customer, number=METER))[
        "meter"
    ]["id"]
    expiry = datetime.now(UTC) + timedelta(days=200)
    consent = (
        await scene.api.mutate(
            "createHostedConsent",
            "hostedConsent { id link }",
            customerId=customer,
            flowType="GB_RESIDENTIAL_SPECIFIC",
            expiry=expiry.date().isoformat(),
            redirectUrl="https://bright.example/welcome",
            meterNumbers=[METER],
        )
    )["hostedConsent"]
    token = consent["link"].rpartition("/")[2]
    scene.secrets.append(token)
    # The end customer has no key; the token alone decides.
    async with Api(str(scene.api.http.base_url)) as end_customer:
        await end_customer.mutate(
            "approveHostedConsent",
            "hostedConsent { status }",
            token=token,
            consenteeFullName="Ada Lovelace",
            consenteeEmail="ada@example.com",
            consenteeJobTitle="Occupier",
        )
    readings = [
        {"startAt": "2026-03-01T00:00:00.000Z", "consumption": "0.412"},
        {"startAt": "2026-03-01T00:30:00.000Z", "consumption": "0.387", "quality": "ESTIMATED"},
    ]
    recorded = await scene.api.mutate("recordReadings", "accepted changed", meterId=meter, readings=readings)
    assert recorded == {"accepted": 2, "changed": 2}
    posted = await scene.api.http.post(
        "/readings",
        content=f"meter_id,start_at,consumption,quality\n{meter},2026-03-01T01:00:00Z,0.5,ACTUAL\n",
        headers={"content-type": "text/csv"},
    )
    assert (posted.status_code, posted.json()) == (200, {"accepted": 1, "changed": 1, "meters": 1})
    await scene.api.mutate(
        "revokeHostedConsent", "hostedConsent { status }", hostedConsentId=consent["id"], reason="Moved away."
    )
    await scene.api.mutate("createUser", "user { id }", email="grace@example.com", name="Grace Hopper")
    key = await scene.api.mutate("createApiKey", "apiKey { id } secret", name="Reporting")
    rotated = await scene.api.mutate("rotateApiKey", "secret", apiKeyId=key["apiKey"]["id"])
    scene.secrets += [key["secret"], rotated["secret"]]
    return expiry


async def test_every_event_arrives_by_all_three_ways(
    deployment: Deployment, receiver: Receiver, smtp_sink: SmtpSink
) -> None:
    async with scene(deployment, receiver, smtp_sink) as played:
        expiry = await play(played)
        events = await check_live(played)
        requests = await receiver.wait_for(len(EXPECTED))
        await check_webhooks(played, events, requests)
        # A mail of them asks the new user to confirm the address.
        sent = await smtp_sink.wait_for(len(EXPECTED) + 1)
        mails = [one for one in sent if one.recipients == [READER]]
        await check_mails(played, events, mails, expiry)
        await check_unsubscribe(played, mails[0])


async def check_live(scene: Scene) -> list[dict[str, Any]]:
    """Every socket and the stream got the same events in order, which are those of the log."""
    log = await scene.api.data(
        "{ events(first: 100) { nodes { __typename id name sequence cursor occurredAt data } } }"
    )
    events: list[dict[str, Any]]
    first, *events = log["events"]["nodes"]
    assert first["name"] == "user.created"
    assert [event["name"] for event in events] == EXPECTED
    assert [event["sequence"] for event in events] == list(range(2, 10))
    for one in scene.sockets:
        await one.events.wait_for(len(events))
        await one.settled()
        assert list(one.events) == events
    await scene.stream.events.wait_for(len(events))
    assert list(scene.stream.events) == events
    assert scene.stream.last_id == events[-1]["cursor"]
    for event in events:
        keys = DATA_KEYS.get(event["name"])
        assert keys is None or event["data"].keys() == keys
    return events


async def check_webhooks(scene: Scene, events: list[dict[str, Any]], requests: list[Request]) -> None:
    deliveries = await scene.deliveries(len(events), webhookEndpointId=scene.endpoint_id)
    by_event = {one["event"]["id"]: one for one in deliveries}
    assert len(requests) == len(events)
    arrived = {request.headers["webhook-id"]: request for request in requests}
    for event in events:
        request, delivery = arrived[event["id"]], by_event[event["id"]]
        assert (request.method, request.target) == ("POST", "/events")
        assert Webhook(scene.secret).verify(request.body, request.headers) == request.json()
        assert request.json() == {
            "type": event["name"],
            "timestamp": event["occurredAt"],
            "id": event["id"],
            "sequence": event["sequence"],
            "data": event["data"],
        }
        assert request.headers["content-type"] == "application/json"
        assert request.headers["voltwire-delivery-id"] == delivery["id"]
        assert request.headers["voltwire-attempt"] == "1"
        assert "voltwire-replay-id" not in request.headers
        assert delivery["status"] == "SUCCEEDED"
        assert delivery["endpoint"] == {"id": scene.endpoint_id}
        assert delivery["emailSubscription"] is delivery["nextAttemptAt"] is None
        assert delivery["attempts"] == [
            {"number": 1, "outcome": "SUCCEEDED", "responseStatus": 204, "error": None}
        ]
        assert not any(secret in request.body.decode() for secret in scene.secrets)


async def check_mails(
    scene: Scene, events: list[dict[str, Any]], mails: list[Mail], expiry: datetime
) -> None:
    deliveries = await scene.deliveries(len(events), emailSubscriptionId=scene.subscription_id)
    assert {one["event"]["id"] for one in deliveries} == {event["id"] for event in events}
    assert {one["status"] for one in deliveries} == {"SUCCEEDED"}
    assert [[attempt["outcome"] for attempt in one["attempts"]] for one in deliveries] == [
        ["SUCCEEDED"]
    ] * len(events)
    assert len(mails) == len(events)
    day = f"{expiry.day} {expiry:%B %Y}"
    for event, subject in zip(events, SUBJECTS, strict=True):
        (mail,) = [one for one in mails if event["id"] in one.text]
        assert mail.recipients == [READER]
        assert mail.message["to"] == READER
        assert mail.message["cc"] is mail.message["bcc"] is None
        assert mail.subject == subject.format(expiry=day)
        assert mail.message.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in mail.message.iter_parts()] == ["text/plain", "text/html"]
        for body in (mail.text, mail.html):
            assert f"Event {event['id']} (number {event['sequence']})" in body
            # A reader has no key, which the start page would ask for.
            assert "/?event=" not in body
        assert mail.message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
        assert unsubscribe_link(mail) in mail.text
        assert unsubscribe_link(mail) in mail.html
        assert not any(secret in mail.text + mail.html for secret in scene.secrets)


def unsubscribe_link(mail: Mail) -> str:
    header = str(mail.message["list-unsubscribe"])
    assert header.startswith("<http")
    assert header.endswith(">")
    return header[1:-1]


async def check_unsubscribe(scene: Scene, mail: Mail) -> None:
    """A single click in a mail program stops the mails, and nothing else."""
    path = urlsplit(unsubscribe_link(mail)).path
    async with httpx.AsyncClient(
        base_url=scene.api.http.base_url, trust_env=False, timeout=PATIENCE
    ) as browser:
        assert (await browser.get(path)).status_code == 200
        assert await status_of(scene.api, scene.subscription_id) == "ACTIVE"
        clicked = await browser.post(path, data={"List-Unsubscribe": "One-Click"})
        assert (clicked.status_code, clicked.cookies) == (200, httpx.Cookies())
    assert await status_of(scene.api, scene.subscription_id) == "UNSUBSCRIBED"
    await scene.api.mutate("createCustomer", "customer { id }", name="Alan Turing", email="alan@example.com")
    for one in scene.sockets:
        await one.events.wait_for(9)
        await one.settled()
        assert one.sequences == list(range(2, 11))
    await scene.stream.events.wait_for(9)
    assert scene.stream.sequences == list(range(2, 11))
    # One transaction makes the deliveries of an event, so that there is no other one to come.
    (delivery,) = await scene.deliveries(1, eventId=scene.sockets[0].events[-1]["id"])
    assert delivery["endpoint"] == {"id": scene.endpoint_id}
    assert len([one for one in scene.sink.mails if one.recipients == [READER]]) == len(EXPECTED)
    assert len(scene.receiver.requests) == len(EXPECTED) + 1
