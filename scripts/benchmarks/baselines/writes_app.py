"""Mutations the idiomatic way: Strawberry, SQLModel and broadcaster, a session per request and a row per event.

`BENCH_DATABASE_URL` (an async SQLAlchemy URL) is an empty database, on SQLite or PostgreSQL. At the start it gets an
account with the key `BENCH_API_KEY`, and `BENCH_METERS` customers with a meter each, whose ids end with their number.
Kind to the baseline: no validation, scopes, consents or idempotency, and SQLite does not wait for the disk at each
commit.
"""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson
import strawberry
from broadcaster import Broadcast
from sqlalchemy import JSON, DateTime, UniqueConstraint, event, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette
from starlette.routing import Route
from strawberry.asgi import GraphQL

METERS = int(os.environ.get("BENCH_METERS", "100"))
API_KEY = os.environ.get("BENCH_API_KEY", "key")
URL = os.environ["BENCH_DATABASE_URL"]
IS_SQLITE = URL.startswith("sqlite")

# SQLite has one writer: with more connections most would sleep until its lock is free, for longer than that takes.
engine = create_async_engine(URL, **({"pool_size": 1, "max_overflow": 0} if IS_SQLITE else {}))
insert = sqlite.insert if IS_SQLITE else postgresql.insert
broadcast = Broadcast("memory://")

if IS_SQLITE:

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()


def now() -> datetime:
    """Times are stored without their zone, which is UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(13)}"


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class AccountRow(SQLModel, table=True):
    __tablename__ = "accounts"

    id: str = Field(primary_key=True)
    last_sequence: int = 0


class ApiKeyRow(SQLModel, table=True):
    __tablename__ = "api_keys"

    id: str = Field(primary_key=True)
    account_id: str = Field(foreign_key="accounts.id")
    secret_hash: str = Field(unique=True)
    revoked_at: datetime | None = Field(default=None, sa_type=DateTime)


class CustomerRow(SQLModel, table=True):
    __tablename__ = "customers"
    __table_args__ = (UniqueConstraint("account_id", "email"),)

    id: str = Field(primary_key=True, default_factory=lambda: new_id("cus"))
    account_id: str = Field(foreign_key="accounts.id")
    name: str
    email: str
    created_at: datetime = Field(default_factory=now, sa_type=DateTime)


class MeterRow(SQLModel, table=True):
    __tablename__ = "meters"
    __table_args__ = (UniqueConstraint("customer_id", "number"),)

    id: str = Field(primary_key=True, default_factory=lambda: new_id("mtr"))
    account_id: str = Field(foreign_key="accounts.id", index=True)
    customer_id: str = Field(foreign_key="customers.id")
    number: str
    type: str = "ELECTRICITY"
    description: str | None = None
    created_at: datetime = Field(default_factory=now, sa_type=DateTime)
    updated_at: datetime = Field(default_factory=now, sa_type=DateTime)


class ReadingRow(SQLModel, table=True):
    __tablename__ = "readings"

    meter_id: str = Field(primary_key=True, foreign_key="meters.id")
    start_at: datetime = Field(primary_key=True, sa_type=DateTime)
    consumption: Decimal = Field(max_digits=18, decimal_places=6)


class EventRow(SQLModel, table=True):
    __tablename__ = "events"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id")
    sequence: int = Field(primary_key=True)
    id: str = Field(default_factory=lambda: new_id("evt"))
    type: str
    occurred_at: datetime = Field(default_factory=now, sa_type=DateTime)
    data: dict[str, Any] = Field(sa_type=JSON)


@strawberry.enum
class MeterType(Enum):
    ELECTRICITY = "ELECTRICITY"
    GAS = "GAS"


@strawberry.type
class Customer:
    id: strawberry.ID
    name: str
    email: str

    @classmethod
    def of(cls, row: CustomerRow) -> "Customer":
        return cls(id=strawberry.ID(row.id), name=row.name, email=row.email)


@strawberry.type
class Meter:
    id: strawberry.ID
    number: str
    type: MeterType
    description: str | None

    @classmethod
    def of(cls, row: MeterRow) -> "Meter":
        return cls(
            id=strawberry.ID(row.id),
            number=row.number,
            type=MeterType(row.type),
            description=row.description,
        )


@strawberry.type
class UserError:
    code: str
    message: str


@strawberry.input
class CreateCustomerInput:
    name: str
    email: str


@strawberry.type
class CreateCustomerPayload:
    customer: Customer | None = None
    user_errors: list[UserError] = strawberry.field(default_factory=list)


@strawberry.input
class CreateMeterInput:
    customer_id: strawberry.ID
    number: str


@strawberry.input
class UpdateMeterInput:
    meter_id: strawberry.ID
    description: str | None = None


@strawberry.type
class MeterPayload:
    meter: Meter | None = None
    user_errors: list[UserError] = strawberry.field(default_factory=list)


@strawberry.input
class ReadingInput:
    start_at: datetime
    consumption: Decimal


@strawberry.input
class RecordReadingsInput:
    meter_id: strawberry.ID
    readings: list[ReadingInput]


@strawberry.type
class RecordReadingsPayload:
    changed: int = 0
    user_errors: list[UserError] = strawberry.field(default_factory=list)


def refused(code: str, message: str) -> list[UserError]:
    return [UserError(code=code, message=message)]


async def account_of(session: AsyncSession, info: strawberry.Info) -> str:
    """The account of the request's API key."""
    secret_hash = hashed(info.context["request"].headers.get("x-api-key", ""))
    key = (await session.exec(select(ApiKeyRow).where(ApiKeyRow.secret_hash == secret_hash))).first()
    if key is None or key.revoked_at is not None:
        raise PermissionError("This key is wrong or revoked.")
    return key.account_id


async def append(session: AsyncSession, account_id: str, type_: str, data: dict[str, Any]) -> EventRow:
    """Adds an event with the account's next sequence. The account's row is locked until the commit."""
    taken = await session.execute(
        update(AccountRow)
        .where(col(AccountRow.id) == account_id)
        .values(last_sequence=col(AccountRow.last_sequence) + 1)
        .returning(col(AccountRow.last_sequence))
    )
    row = EventRow(account_id=account_id, sequence=taken.scalar_one(), type=type_, data=data)
    session.add(row)
    return row


async def publish(row: EventRow) -> None:
    await broadcast.publish(f"events:{row.account_id}", orjson.dumps(row.model_dump()).decode())


@strawberry.type
class Query:
    @strawberry.field
    def ready(self) -> bool:
        return True


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_customer(
        self, info: strawberry.Info, input: CreateCustomerInput
    ) -> CreateCustomerPayload:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            account_id = await account_of(session, info)
            same = select(CustomerRow.id).where(
                CustomerRow.account_id == account_id, CustomerRow.email == input.email
            )
            if (await session.exec(same)).first():
                return CreateCustomerPayload(user_errors=refused("TAKEN", "This email is taken."))
            customer = CustomerRow(account_id=account_id, name=input.name, email=input.email)
            session.add(customer)
            record = await append(
                session, account_id, "customer.created", {"id": customer.id, "email": customer.email}
            )
            try:
                await session.commit()
            except IntegrityError:
                return CreateCustomerPayload(user_errors=refused("TAKEN", "This email is taken."))
        await publish(record)
        return CreateCustomerPayload(customer=Customer.of(customer))

    @strawberry.mutation
    async def create_meter(self, info: strawberry.Info, input: CreateMeterInput) -> MeterPayload:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            account_id = await account_of(session, info)
            customer = (
                await session.exec(
                    select(CustomerRow).where(
                        CustomerRow.id == input.customer_id, CustomerRow.account_id == account_id
                    )
                )
            ).first()
            if customer is None:
                return MeterPayload(user_errors=refused("NOT_FOUND", "There is no such customer."))
            same = select(MeterRow.id).where(
                MeterRow.customer_id == customer.id, MeterRow.number == input.number
            )
            if (await session.exec(same)).first():
                return MeterPayload(user_errors=refused("TAKEN", "The customer has this meter already."))
            meter = MeterRow(account_id=account_id, customer_id=customer.id, number=input.number)
            session.add(meter)
            record = await append(
                session,
                account_id,
                "meter.created",
                {"id": meter.id, "number": meter.number, "customer_id": customer.id},
            )
            try:
                await session.commit()
            except IntegrityError:
                return MeterPayload(user_errors=refused("TAKEN", "The customer has this meter already."))
        await publish(record)
        return MeterPayload(meter=Meter.of(meter))

    @strawberry.mutation
    async def update_meter(self, info: strawberry.Info, input: UpdateMeterInput) -> MeterPayload:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            account_id = await account_of(session, info)
            meter = await load_meter(session, account_id, input.meter_id)
            if meter is None:
                return MeterPayload(user_errors=refused("NOT_FOUND", "There is no such meter."))
            meter.description = input.description
            meter.updated_at = now()
            await session.commit()
        return MeterPayload(meter=Meter.of(meter))

    @strawberry.mutation
    async def record_readings(
        self, info: strawberry.Info, input: RecordReadingsInput
    ) -> RecordReadingsPayload:
        async with AsyncSession(engine, expire_on_commit=False) as session:
            account_id = await account_of(session, info)
            meter = await load_meter(session, account_id, input.meter_id)
            if meter is None:
                return RecordReadingsPayload(user_errors=refused("NOT_FOUND", "There is no such meter."))
            statement = insert(ReadingRow).values(
                [
                    {
                        "meter_id": meter.id,
                        "start_at": reading.start_at.astimezone(UTC).replace(tzinfo=None),
                        "consumption": reading.consumption,
                    }
                    for reading in input.readings
                ]
            )
            await session.execute(
                statement.on_conflict_do_update(
                    index_elements=["meter_id", "start_at"],
                    set_={"consumption": statement.excluded.consumption},
                )
            )
            starts = [reading.start_at for reading in input.readings]
            record = await append(
                session,
                account_id,
                "meter_data.received",
                {"meter_id": meter.id, "from": min(starts).isoformat(), "to": max(starts).isoformat()},
            )
            await session.commit()
        await publish(record)
        return RecordReadingsPayload(changed=len(input.readings))


async def load_meter(session: AsyncSession, account_id: str, meter_id: str) -> MeterRow | None:
    found = await session.exec(
        select(MeterRow).where(MeterRow.id == meter_id, MeterRow.account_id == account_id)
    )
    return found.first()


async def seed() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add(AccountRow(id="acc_1"))
        await session.flush()
        session.add(ApiKeyRow(id="key_1", account_id="acc_1", secret_hash=hashed(API_KEY)))
        for n in range(METERS):
            name, email = f"Customer {n:05d}", f"customer{n:05d}@example.com"
            session.add(CustomerRow(id=f"cus_{n:026d}", account_id="acc_1", name=name, email=email))
        await session.flush()
        for n in range(METERS):
            session.add(
                MeterRow(
                    id=f"mtr_{n:026d}",
                    account_id="acc_1",
                    customer_id=f"cus_{n:026d}",
                    number=f"12{n:011d}",
                )
            )
        await session.commit()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await seed()
    async with broadcast:
        yield
    await engine.dispose()


schema = strawberry.Schema(Query, Mutation)
graphql: GraphQL[None, None] = GraphQL(schema)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", graphql)])
