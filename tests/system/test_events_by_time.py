"""Events that nobody makes by a change: workers raise each once, and it arrives live, by webhook and by mail."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.consents.models import HostedConsent
from app.core import clock
from app.db.database import Database
from app.events.models import RaisedSince
from app.readings.models import MeterKey, ReadingDay
from tests.consents.helpers import WHO
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver
from tests.services.smtp import SmtpSink
from tests.system.clients import Api, eventually
from tests.system.deployment import Deployment, deployed
from tests.system.test_seven_events import READER, Scene, scene

METER, OTHER = "2499999999991", "1312345678907"
LATEST = "2026-03-01T00:30:00.000Z"
EXPECTED = {
    "hosted_consent.declined": "Ada Lovelace declined the consent request",
    "hosted_consent.expired": "Consent of Ada Lovelace expired: ask for a new one for 1 meter",
    "meter_data.overdue": f"No data for five days from meter {METER} of Ada Lovelace",
    "webhook_endpoint.disabled": "Webhooks to {receiver} stopped: their endpoint was disabled",
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, smtp_sink: SmtpSink
) -> AsyncIterator[Deployment]:
    if request.param == "sqlite":
        async with deployed(["serve"], tmp_path, smtp_url=smtp_sink.url) as running:
            yield running
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    url = await postgres.create_database()
    async with deployed(["api", "worker", "worker"], tmp_path, url, url, smtp_url=smtp_sink.url) as running:
        yield running
    await postgres.drop_database(url)


async def ask(api: Api, customer_id: str, number: str) -> tuple[str, str]:
    """Asks for a consent to a meter; gives its id and its token."""
    made = await api.mutate(
        "createHostedConsent",
        "hostedConsent { id link }",
        customerId=customer_id,
        flowType="GB_RESIDENTIAL_SPECIFIC",
        expiry=(clock.uk_date(clock.now()) + timedelta(days=200)).isoformat(),
        redirectUrl="https://bright.example/welcome",
        meterNumbers=[number],
    )
    consent = made["hostedConsent"]
    return consent["id"], consent["link"].rpartition("/")[2]


async def approve(api: Api, token: str) -> None:
    who = {"consenteeFullName": WHO["full_name"], "consenteeEmail": WHO["email"]}
    async with Api(str(api.http.base_url)) as end_customer:
        await end_customer.mutate(
            "approveHostedConsent",
            "hostedConsent { status }",
            token=token,
            consenteeJobTitle="Occupier",
            **who,
        )


async def let_time_pass(deployment: Deployment, expiring_id: str) -> None:
    """Moves everything a week into the past, and the end of a consent to an hour ago."""
    now, week = clock.now(), timedelta(days=7)
    database = Database(deployment.database_url)
    try:
        async with database.transaction() as session:
            await session.execute(update(RaisedSince).values(since=now - 2 * week))
            await session.execute(update(HostedConsent).values(decided_at=now - week))
            await session.execute(
                update(HostedConsent)
                .where(col(HostedConsent.id) == expiring_id)
                .values(expires_at=now - timedelta(hours=1))
            )
            await session.execute(update(ReadingDay).values(recorded_ms=clock.to_ms(now - week)))
            await session.execute(update(MeterKey).values(look_ms=0))
    finally:
        await database.dispose()


async def play(deployment: Deployment, played: Scene, receiver: Receiver) -> dict[str, str]:
    """Makes what raises the events; gives the ids of what they are about."""
    api = played.api
    receiver.on("/gone", 410)
    gone = await api.mutate(
        "createWebhookEndpoint",
        "webhookEndpoint { id }",
        url=receiver.url("/gone"),
        eventTypes=["customer.created"],
    )
    made = await api.mutate("createCustomer", "customer { id }", name="Ada Lovelace", email="ada@example.com")
    customer_id = made["customer"]["id"]
    _, token = await ask(api, customer_id, METER)
    await approve(api, token)
    meters = await api.data("{ meters { nodes { id } } }")
    meter_id = meters["meters"]["nodes"][0]["id"]
    await api.mutate(
        "recordReadings", "accepted", meterId=meter_id, readings=[{"startAt": LATEST, "consumption": "0.4"}]
    )
    expiring_id, token = await ask(api, customer_id, OTHER)
    await approve(api, token)
    declined_id, token = await ask(api, customer_id, OTHER)
    async with Api(str(api.http.base_url)) as end_customer:
        await end_customer.mutate("declineHostedConsent", "hostedConsent { status }", token=token)
    await let_time_pass(deployment, expiring_id)
    return {
        "hosted_consent.declined": declined_id,
        "hosted_consent.expired": expiring_id,
        "meter_data.overdue": meter_id,
        "webhook_endpoint.disabled": gone["webhookEndpoint"]["id"],
    }


async def test_each_arrives_once_by_all_three_ways(
    deployment: Deployment, receiver: Receiver, smtp_sink: SmtpSink
) -> None:
    def of_time(events: list[dict[str, Any]]) -> dict[str, Any]:
        found = [one for one in events if one["name"] in EXPECTED]
        by_name = {one["name"]: one for one in found}
        assert len(by_name) == len(found)
        return by_name

    async with scene(deployment, receiver, smtp_sink) as played:
        about = await play(deployment, played, receiver)

        async def all_raised() -> dict[str, Any] | None:
            query = "{ events(first: 100) { nodes { __typename id name sequence cursor occurredAt data } } }"
            log = (await played.api.data(query))["events"]["nodes"]
            return log if of_time(log).keys() == EXPECTED.keys() else None

        log = await eventually(all_raised)
        raised = of_time(log)
        ids = {name: raised[name]["data"] for name in EXPECTED}
        assert ids["meter_data.overdue"] == {
            "meterId": about["meter_data.overdue"],
            "customerId": ids["hosted_consent.expired"]["customerId"],
            "channel": "IMPORT",
            "latestAt": LATEST,
        }
        for name in ("hosted_consent.declined", "hosted_consent.expired"):
            assert (ids[name]["id"], ids[name]["status"]) == (about[name], name.partition(".")[2].upper())
        assert ids["webhook_endpoint.disabled"] == {
            "webhookEndpointId": about["webhook_endpoint.disabled"],
            "reason": "The receiver answered 410.",
        }
        for one in played.sockets:
            await one.events.wait_for(len(log) - 1)
            assert of_time(list(one.events)) == raised
        await played.deliveries(len(log) - 1, webhookEndpointId=played.endpoint_id)
        bodies = [request.json() for request in receiver.to("/events")]
        hooked = of_time([{**body, "name": body["type"]} for body in bodies])
        assert {name: hooked[name]["data"] for name in hooked} == ids
        await played.deliveries(len(log) - 1, emailSubscriptionId=played.subscription_id)
        subjects = [mail.subject for mail in smtp_sink.mails if mail.recipients == [READER]]
        for subject in EXPECTED.values():
            assert subjects.count(subject.format(receiver=f"127.0.0.1:{receiver.port}")) == 1
