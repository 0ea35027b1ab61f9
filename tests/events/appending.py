"""Events appended to a world's log, and read back."""

from typing import Any

from sqlalchemy import select
from sqlmodel import col

from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.ids import new_id
from app.customers.events import CUSTOMER_EXAMPLE, CustomerCreated
from app.db.database import Database
from app.events import log
from app.events.models import EventRecord, Stream
from app.readings.events import MeterDataReceived
from tests.support import World


def actor(account_id: str) -> Actor:
    return Actor(account_id, frozenset([Scope.READ]))


def created(**data: Any) -> CustomerCreated:
    return CustomerCreated.model_validate({**CUSTOMER_EXAMPLE, "id": new_id("cus"), **data})


def received(customer_id: str, meter_id: str) -> MeterDataReceived:
    at = clock.parse_utc("2026-11-23T00:00Z")
    return MeterDataReceived(
        meter_id=meter_id, customer_id=customer_id, start=at, to=at + clock.HALF_HOUR, interval_count=1
    )


async def append(world: World, account_id: str, *events: Any) -> None:
    async with world.database.transaction() as session:
        for event in events:
            log.append(session, account_id, event)


async def records(database: Database, account_id: str) -> list[EventRecord]:
    statement = (
        select(EventRecord)
        .where(col(EventRecord.account_id) == account_id)
        .order_by(col(EventRecord.sequence))
    )
    async with database.reading() as session:
        return list((await session.execute(statement)).scalars())


async def stream(database: Database, account_id: str) -> Stream:
    async with database.reading() as session:
        return await log.stream(session, account_id)
