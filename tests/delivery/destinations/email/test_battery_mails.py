"""The fault battery: all that a mail server can do, with other mails and webhooks beside it that all arrive."""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from email import message_from_bytes
from typing import Any

import pytest

from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.events.models import EventRecord
from tests.delivery.battery import Try, check_healthy, ended
from tests.delivery.scene import Scene, open_scene
from tests.outbound.mail.mail_servers import scripted
from tests.services.receiver import Receiver

pytestmark = pytest.mark.both_databases

EVENTS = 3
DONE: Try = ("SUCCEEDED", 250)


@dataclass(frozen=True)
class Case:
    """The server's replies by command, and the outcomes of the events, one after the other."""

    replies: dict[str, Any]
    ends: list[tuple[str, list[Try]]]
    options: str = ""
    status: EmailSubscriptionStatus = EmailSubscriptionStatus.ACTIVE
    # How many mails came whole, whatever was answered then.
    mails: int = EVENTS


def all_alike(status: str, *tries: Try) -> list[tuple[str, list[Try]]]:
    return [(status, list(tries))] * EVENTS


def first(*tries: Try, status: str = "SUCCEEDED") -> list[tuple[str, list[Try]]]:
    return [(status, list(tries)), *[("SUCCEEDED", [DONE])] * (EVENTS - 1)]


CASES = {
    "puts a recipient off": Case({"RCPT": ["451 4.3.0 Later", "250 OK"]}, first(("SMTP", 451), DONE)),
    "puts a mail off": Case(
        {"END": ["452 4.3.1 Full", "250 OK"]}, first(("SMTP", 452), DONE), mails=EVENTS + 1
    ),
    "puts off until the end": Case(
        {"RCPT": "451 4.3.0 Later"}, all_alike("EXHAUSTED", *[("SMTP", 451)] * 3), mails=0
    ),
    "refuses a mail for good": Case(
        {"END": ["554 5.7.1 Not from you", "250 OK"]}, first(("SMTP", 554), status="EXHAUSTED")
    ),
    "knows no such recipient": Case(
        {"RCPT": "550 5.1.1 No such user"},
        [("EXHAUSTED", [("SMTP", 550)])],
        status=EmailSubscriptionStatus.SUSPENDED,
        mails=0,
    ),
    "knows no such recipient and says so in words": Case(
        {"RCPT": "550 No such user"},
        [("EXHAUSTED", [("SMTP", 550)])],
        status=EmailSubscriptionStatus.SUSPENDED,
        mails=0,
    ),
    "does not like where the mail comes from": Case(
        {"RCPT": "550 Your IP address is blacklisted"}, all_alike("EXHAUSTED", ("SMTP", 550)), mails=0
    ),
    "gives codes, but none for this": Case(
        {"EHLO": "250-mail.example\r\n250 ENHANCEDSTATUSCODES", "RCPT": "550 Go away"},
        all_alike("EXHAUSTED", ("SMTP", 550)),
        mails=0,
    ),
    "knows no such sender": Case(
        {"MAIL": "550 5.1.1 No such user"}, all_alike("EXHAUSTED", ("SMTP", 550)), mails=0
    ),
    "drops the connection after the data": Case(
        {"END": ["", "250 OK"]}, first(("CONNECTION", None), DONE), mails=EVENTS + 1
    ),
    "drops every connection": Case(
        {"BANNER": ""}, all_alike("EXHAUSTED", *[("CONNECTION", None)] * 3), mails=0
    ),
    "offers no encryption, which is required": Case(
        {}, all_alike("EXHAUSTED", *[("TLS", None)] * 3), options="?starttls=required", mails=0
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_all_that_mail_servers_do(migrated_url: str, receiver: Receiver, name: str) -> None:
    case = CASES[name]
    async with scripted(**deepcopy(case.replies)) as server:
        settings = {
            "smtp_url": f"smtp://127.0.0.1:{server.port}{case.options}",
            "mail_from": "Voltwire <events@mail.example>",
            "webhook_retry_schedule": [0.05, 0.05],
        }
        async with open_scene(migrated_url, **settings) as scene:
            account = await scene.account()
            subscription = await scene.subscription(account, "ada@example.com")
            beside = await scene.endpoint(account, receiver.url())
            events: list[EventRecord] = []
            async with scene.worker() as worker:
                for _ in range(EVENTS):
                    events += await scene.happen(account)
                    await scene.settled()
                assert (worker.failures, worker.senders["email"].stats.leases_lost) == (0, 0)
            assert await ended(scene, subscription, events[: len(case.ends)]) == case.ends
            assert (await scene.row(EmailSubscription, subscription)).status == case.status.value
            await check_mails(scene, case, server.messages, subscription)
            await check_healthy(scene, beside.id, events, receiver.requests)


async def check_mails(scene: Scene, case: Case, messages: Sequence[bytes], subscription: str) -> None:
    """Every mail is its delivery's, the same each time, and each time is a try that was recorded."""
    assert len(messages) == case.mails
    subjects = defaultdict(list)
    for message in map(message_from_bytes, messages):
        subjects[message["message-id"]].append(message["subject"])
    for delivery in await scene.deliveries(destination_id=subscription):
        came = subjects.pop(f"<{delivery.id}@mail.example>", [])
        assert len(came) <= delivery.attempts_made
        assert len(set(came)) <= 1
        assert came or delivery.status != "SUCCEEDED"
    assert subjects == {}
