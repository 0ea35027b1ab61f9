"""Helpers for tests of consents: a customer, a consent request, and reads of the log and the queued mails."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import orjson
from sqlmodel import col, func, select

from app.auth.actor import Actor
from app.consents import actions, decisions
from app.consents.models import ConsentFlowType, ConsentMeter, Evidence, HostedConsent
from app.core import clock
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.database import run_script
from app.events.models import EventRecord
from app.meters.models import Meter
from app.outbound.mail.models import TransactionalMail
from tests.support import World

ELECTRICITY, OTHER, GAS = "1312345678907", "2499999999991", "3938424403"
RESIDENTIAL, BLANKET = ConsentFlowType.GB_RESIDENTIAL_SPECIFIC, ConsentFlowType.GB_COMMERCIAL_BLANKET
WHO = {"full_name": "Ada Lovelace", "email": "ada@example.com", "job_title": "Occupier"}


def in_a_year() -> date:
    return clock.uk_date(clock.now()) + timedelta(days=365)


@dataclass
class Asked:
    """A consent request and the token of its page."""

    world: World
    account_id: str
    key: str
    actor: Actor
    customer: Customer
    consent: HostedConsent
    token: str

    async def approve(self, **changes: Any) -> HostedConsent:
        async with self.world.database.transaction() as session:
            actor = await actions.actor_by_token(session, self.token)
            values: dict[str, Any] = {**WHO, "privacy_contact": "privacy@example.com", **changes}
            return await decisions.approve(session, actor, **values)

    async def decline(self, reason: str | None = None) -> HostedConsent:
        async with self.world.database.transaction() as session:
            actor = await actions.actor_by_token(session, self.token)
            return await decisions.decline(session, actor, reason)

    async def revoke(self, reason: str | None = None) -> HostedConsent:
        async with self.world.database.transaction() as session:
            return await decisions.revoke(session, self.actor, self.consent.id, reason)

    async def stored(self) -> HostedConsent:
        async with self.world.database.reading() as session:
            return await session.get_one(HostedConsent, self.consent.id)

    async def change(self, **values: Any) -> None:
        """Sets columns of the consent directly, to move its clock."""
        async with self.world.database.transaction() as session:
            consent = await session.get_one(HostedConsent, self.consent.id)
            for name, value in values.items():
                setattr(consent, name, value)

    async def expire(self) -> None:
        yesterday = clock.uk_date(clock.now()) - timedelta(days=1)
        await self.change(expiry=yesterday, expires_at=clock.end_of_uk_day(yesterday))


async def ask_for_consent(world: World, **changes: Any) -> Asked:
    """Creates an account and asks its only customer for consent to one electricity meter."""
    account = await world.account()
    actor = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        customer = await run_script(
            session, customers.create(session, actor, name="Ada Lovelace", email="ada@example.com")
        )
    return await ask_again(world, account.id, account.key, actor, customer, **changes)


async def ask_again(
    world: World, account_id: str, key: str, actor: Actor, customer: Customer, **changes: Any
) -> Asked:
    values = {
        "customer_id": customer.id,
        "flow_type": RESIDENTIAL,
        "expiry": in_a_year(),
        "redirect_url": "https://bright.example/done?ref=7",
        "meter_numbers": [ELECTRICITY],
        **changes,
    }
    async with world.database.transaction() as session:
        consent = await actions.create(session, actor, world.services.keyring, **values)
    token = world.services.keyring.decrypt(consent.token_encrypted)
    return Asked(world, account_id, key, actor, customer, consent, token)


async def events(world: World, account_id: str) -> list[EventRecord]:
    """The account's log without the user.created of its first user."""
    statement = (
        select(EventRecord)
        .where(col(EventRecord.account_id) == account_id, col(EventRecord.type) != "user.created")
        .order_by(col(EventRecord.sequence))
    )
    async with world.database.reading() as session:
        return list((await session.exec(statement)).all())


async def event_names(world: World, account_id: str) -> list[str]:
    return [one.type for one in await events(world, account_id)]


async def meters(world: World, account_id: str) -> list[Meter]:
    statement = select(Meter).where(col(Meter.account_id) == account_id).order_by(col(Meter.id))
    async with world.database.reading() as session:
        return list((await session.exec(statement)).all())


async def links(world: World, consent_id: str) -> set[str]:
    """Ids of the meters that a consent covers."""
    statement = select(ConsentMeter.meter_id).where(col(ConsentMeter.hosted_consent_id) == consent_id)
    async with world.database.reading() as session:
        return set((await session.exec(statement)).all())


async def evidence_count(world: World) -> int:
    async with world.database.reading() as session:
        return (await session.exec(select(func.count()).select_from(Evidence))).one()


async def mails(world: World) -> list[dict[str, str]]:
    """Queued mails, oldest first: recipient, subject, text and html."""
    async with world.database.reading() as session:
        rows = (await session.exec(select(TransactionalMail).order_by(col(TransactionalMail.id)))).all()
    return [
        {
            "recipient": one.recipient,
            **orjson.loads(world.services.keyring.decrypt(one.content_encrypted or "")),
        }
        for one in rows
    ]


async def last_code(world: World) -> str:
    return (await mails(world))[-1]["subject"][:6]
