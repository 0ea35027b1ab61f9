"""Lists within lists, events and readings the idiomatic way: Strawberry, SQLModel and DataLoaders, a session per load.

`BENCH_DATABASE_URL` (an async SQLAlchemy URL) is an empty database, on SQLite or PostgreSQL, which is filled at the
start: twenty customers with a consent and ten meters each, an event for each meter, and `BENCH_HALF_HOURS` readings of
the meter `mtr_1`. Kind to the baseline: no authentication, no pages, no rights, no UK time.
"""

import os
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import strawberry
from sqlalchemy import DateTime
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.dataloader import DataLoader

CUSTOMERS, EACH = 20, 10
HALF_HOURS = int(os.environ.get("BENCH_HALF_HOURS", "1440"))
HALF_HOUR = timedelta(minutes=30)
# Times are stored without their zone, which is UTC.
START = datetime(2001, 1, 1)  # noqa: DTZ001
engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])


class CustomerRow(SQLModel, table=True):
    __tablename__ = "customers"

    id: str = Field(primary_key=True)
    name: str


class MeterRow(SQLModel, table=True):
    __tablename__ = "meters"

    id: str = Field(primary_key=True)
    number: str
    customer_id: str = Field(foreign_key="customers.id", index=True)


class ConsentRow(SQLModel, table=True):
    __tablename__ = "consents"

    customer_id: str = Field(primary_key=True, foreign_key="customers.id")
    status: str


class EventRow(SQLModel, table=True):
    __tablename__ = "events"

    sequence: int = Field(primary_key=True)
    id: str
    occurred_at: datetime = Field(sa_type=DateTime)
    meter_id: str = Field(foreign_key="meters.id")
    customer_id: str = Field(foreign_key="customers.id")


class ReadingRow(SQLModel, table=True):
    __tablename__ = "readings"

    meter_id: str = Field(primary_key=True, foreign_key="meters.id")
    start_at: datetime = Field(primary_key=True, sa_type=DateTime)
    consumption: Decimal = Field(max_digits=18, decimal_places=6)
    quality: str


@strawberry.enum
class ConsentStatus(Enum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"


@strawberry.enum
class Granularity(Enum):
    HALF_HOUR = "HALF_HOUR"
    DAY = "DAY"


@strawberry.enum
class Quality(Enum):
    ACTUAL = "ACTUAL"
    ESTIMATED = "ESTIMATED"


@strawberry.type
class HostedConsent:
    status: ConsentStatus


@strawberry.type
class Interval:
    start_at: datetime
    end_at: datetime
    consumption: Decimal
    quality: Quality


@strawberry.type
class IntervalData:
    total: Decimal
    intervals: list[Interval]


def by_half_hour(readings: Sequence[ReadingRow]) -> list[Interval]:
    return [
        Interval(
            start_at=row.start_at.replace(tzinfo=UTC),
            end_at=(row.start_at + HALF_HOUR).replace(tzinfo=UTC),
            consumption=row.consumption,
            quality=Quality(row.quality),
        )
        for row in readings
    ]


def by_day(readings: Sequence[ReadingRow]) -> list[Interval]:
    days: defaultdict[date, list[ReadingRow]] = defaultdict(list)
    for row in readings:
        days[row.start_at.date()].append(row)
    estimated = Quality.ESTIMATED
    return [
        Interval(
            start_at=datetime(day.year, day.month, day.day, tzinfo=UTC),
            end_at=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1),
            consumption=sum((row.consumption for row in rows), Decimal(0)),
            quality=estimated if any(row.quality == estimated.value for row in rows) else Quality.ACTUAL,
        )
        for day, rows in days.items()
    ]


@strawberry.type
class Meter:
    id: strawberry.ID
    number: str
    customer_id: strawberry.Private[str]

    @classmethod
    def of(cls, row: MeterRow) -> "Meter":
        return cls(id=strawberry.ID(row.id), number=row.number, customer_id=row.customer_id)

    @strawberry.field
    async def hosted_consent(self, info: strawberry.Info) -> HostedConsent | None:
        consent: HostedConsent | None = await info.context["consents"].load(self.customer_id)
        return consent

    @strawberry.field
    async def interval_data(
        self,
        start: Annotated[datetime, strawberry.argument(name="from")],
        end: Annotated[datetime, strawberry.argument(name="to")],
        granularity: Granularity = Granularity.HALF_HOUR,
    ) -> IntervalData:
        async with AsyncSession(engine) as session:
            rows = await session.exec(
                select(ReadingRow)
                .where(
                    col(ReadingRow.meter_id) == self.id,
                    col(ReadingRow.start_at) >= start.replace(tzinfo=None),
                    col(ReadingRow.start_at) < end.replace(tzinfo=None),
                )
                .order_by(col(ReadingRow.start_at))
            )
            found = rows.all()
        return IntervalData(
            total=sum((row.consumption for row in found), Decimal(0)),
            intervals=by_day(found) if granularity is Granularity.DAY else by_half_hour(found),
        )


@strawberry.type
class MeterConnection:
    nodes: list[Meter]


@strawberry.type
class Customer:
    id: strawberry.ID
    name: str

    @classmethod
    def of(cls, row: CustomerRow) -> "Customer":
        return cls(id=strawberry.ID(row.id), name=row.name)

    @strawberry.field
    async def meters(self, info: strawberry.Info, first: int = 20) -> MeterConnection:
        meters: list[Meter] = await info.context["meters_of"].load(self.id)
        return MeterConnection(nodes=meters[:first])


@strawberry.type
class CustomerConnection:
    nodes: list[Customer]


@strawberry.type
class Event:
    id: strawberry.ID
    sequence: int
    occurred_at: datetime
    meter_id: strawberry.Private[str]
    customer_id: strawberry.Private[str]

    @strawberry.field
    async def meter(self, info: strawberry.Info) -> Meter | None:
        meter: Meter | None = await info.context["meters"].load(self.meter_id)
        return meter

    @strawberry.field
    async def customer(self, info: strawberry.Info) -> Customer | None:
        customer: Customer | None = await info.context["customers"].load(self.customer_id)
        return customer


@strawberry.type
class EventConnection:
    nodes: list[Event]


@strawberry.type
class Query:
    @strawberry.field
    async def customers(self, first: int = 20) -> CustomerConnection:
        async with AsyncSession(engine) as session:
            rows = await session.exec(select(CustomerRow).order_by(col(CustomerRow.id)).limit(first))
            return CustomerConnection(nodes=[Customer.of(row) for row in rows])

    @strawberry.field
    async def events(self, first: int = 20) -> EventConnection:
        async with AsyncSession(engine) as session:
            rows = await session.exec(select(EventRow).order_by(col(EventRow.sequence)).limit(first))
            return EventConnection(
                nodes=[
                    Event(
                        id=strawberry.ID(row.id),
                        sequence=row.sequence,
                        occurred_at=row.occurred_at.replace(tzinfo=UTC),
                        meter_id=row.meter_id,
                        customer_id=row.customer_id,
                    )
                    for row in rows
                ]
            )

    @strawberry.field
    async def meter(self, id: strawberry.ID) -> Meter | None:
        return (await load_meters([id]))[0]


async def load_customers(ids: list[str]) -> list[Customer | None]:
    async with AsyncSession(engine) as session:
        rows = await session.exec(select(CustomerRow).where(col(CustomerRow.id).in_(ids)))
        found = {row.id: Customer.of(row) for row in rows}
    return [found.get(one) for one in ids]


async def load_meters(ids: list[Any]) -> list[Meter | None]:
    async with AsyncSession(engine) as session:
        rows = await session.exec(select(MeterRow).where(col(MeterRow.id).in_(ids)))
        found = {row.id: Meter.of(row) for row in rows}
    return [found.get(one) for one in ids]


async def load_meters_of(customer_ids: list[str]) -> list[list[Meter]]:
    found: dict[str, list[Meter]] = defaultdict(list)
    async with AsyncSession(engine) as session:
        statement = select(MeterRow).where(col(MeterRow.customer_id).in_(customer_ids))
        for row in await session.exec(statement.order_by(col(MeterRow.id))):
            found[row.customer_id].append(Meter.of(row))
    return [found[one] for one in customer_ids]


async def load_consents(customer_ids: list[str]) -> list[HostedConsent | None]:
    async with AsyncSession(engine) as session:
        rows = await session.exec(select(ConsentRow).where(col(ConsentRow.customer_id).in_(customer_ids)))
        found = {row.customer_id: HostedConsent(status=ConsentStatus(row.status)) for row in rows}
    return [found.get(one) for one in customer_ids]


class App(GraphQL[Any, None]):
    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        return {
            "request": request,
            "response": response,
            "customers": DataLoader(load_customers),
            "meters": DataLoader(load_meters),
            "meters_of": DataLoader(load_meters_of),
            "consents": DataLoader(load_consents),
        }


async def seed() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        for n in range(CUSTOMERS):
            customer = CustomerRow(id=f"cus_{secrets.token_hex(13)}", name=f"Customer {n:05d}")
            session.add(customer)
            await session.flush()
            session.add(ConsentRow(customer_id=customer.id, status="APPROVED"))
            session.add_all(meters_of(customer.id, n * EACH))
        await session.flush()
        for n, meter in enumerate((await session.exec(select(MeterRow))).all()):
            session.add(
                EventRow(
                    sequence=n + 1,
                    id=f"evt_{secrets.token_hex(13)}",
                    occurred_at=START,
                    meter_id=meter.id,
                    customer_id=meter.customer_id,
                )
            )
        session.add_all(
            ReadingRow(
                meter_id="mtr_1",
                start_at=START + n * HALF_HOUR,
                consumption=Decimal("1.234"),
                quality="ACTUAL",
            )
            for n in range(HALF_HOURS)
        )
        await session.commit()


def meters_of(customer_id: str, first: int) -> list[MeterRow]:
    return [
        MeterRow(
            id=f"mtr_{secrets.token_hex(13)}" if n else "mtr_1", number=f"12{n:011d}", customer_id=customer_id
        )
        for n in range(first, first + EACH)
    ]


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await seed()
    yield
    await engine.dispose()


schema = strawberry.Schema(Query)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", App(schema))])
