"""Nested reads the idiomatic way: Strawberry, SQLModel and a DataLoader, a session per load.

`BENCH_DATABASE_URL` (an async SQLAlchemy URL) is an empty database, on SQLite or PostgreSQL; `BENCH_METERS`
meters with a customer each are put into it at the start. Kind to the baseline: no authentication, no pages, no rights.
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

import strawberry
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

METERS = int(os.environ.get("BENCH_METERS", "1000"))
engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])


class CustomerRow(SQLModel, table=True):
    __tablename__ = "customers"

    id: str = Field(primary_key=True)
    name: str
    email: str


class MeterRow(SQLModel, table=True):
    __tablename__ = "meters"

    id: str = Field(primary_key=True)
    number: str
    type: str
    customer_id: str = Field(foreign_key="customers.id", index=True)


@strawberry.enum
class MeterType(Enum):
    ELECTRICITY = "ELECTRICITY"
    GAS = "GAS"


@strawberry.type
class Customer:
    id: strawberry.ID
    name: str
    email: str


async def load_customers(ids: list[str]) -> list[Customer]:
    async with AsyncSession(engine) as session:
        rows = await session.exec(select(CustomerRow).where(col(CustomerRow.id).in_(ids)))
        found = {row.id: row for row in rows}
    return [
        Customer(id=strawberry.ID(row.id), name=row.name, email=row.email)
        for row in (found[one] for one in ids)
    ]


@strawberry.type
class Meter:
    id: strawberry.ID
    number: str
    type: MeterType
    customer_id: strawberry.Private[str]

    @strawberry.field
    async def customer(self, info: strawberry.Info) -> Customer:
        customer: Customer = await info.context["customers"].load(self.customer_id)
        return customer


@strawberry.type
class MeterConnection:
    nodes: list[Meter]


@strawberry.type
class Query:
    @strawberry.field
    async def meters(self, first: int = 20) -> MeterConnection:
        async with AsyncSession(engine) as session:
            rows = (await session.exec(select(MeterRow).order_by(col(MeterRow.id)).limit(first))).all()
        return MeterConnection(
            nodes=[
                Meter(
                    id=strawberry.ID(row.id),
                    number=row.number,
                    type=MeterType(row.type),
                    customer_id=row.customer_id,
                )
                for row in rows
            ]
        )


class App(GraphQL[Any, None]):
    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        return {"request": request, "response": response, "customers": DataLoader(load_customers)}


async def seed() -> None:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(engine) as session:
        for n in range(METERS):
            customer = CustomerRow(
                id=f"cus_{secrets.token_hex(13)}",
                name=f"Customer {n:05d}",
                email=f"customer{n:05d}@example.com",
            )
            session.add(customer)
            await session.flush()
            session.add(
                MeterRow(
                    id=f"mtr_{secrets.token_hex(13)}",
                    number=f"12{n:011d}",
                    type="ELECTRICITY",
                    customer_id=customer.id,
                )
            )
        await session.commit()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await seed()
    yield
    await engine.dispose()


schema = strawberry.Schema(Query)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", App(schema))])
