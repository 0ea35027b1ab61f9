"""Readings the idiomatic way: a Strawberry mutation that looks up what is there, updates it, adds the rest.

`BENCH_DATABASE_URL` (an async SQLAlchemy URL) is an empty database. Kind to the baseline: no authentication,
consent, rules or event, and one SELECT per request instead of one `session.merge` per reading.
"""

import datetime
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import strawberry
from sqlalchemy import DateTime
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.applications import Starlette
from starlette.routing import Route
from strawberry.asgi import GraphQL

engine = create_async_engine(os.environ["BENCH_DATABASE_URL"])


class Reading(SQLModel, table=True):
    __tablename__ = "readings"

    meter_id: str = Field(primary_key=True)
    start_at: datetime.datetime = Field(primary_key=True, sa_type=DateTime)
    consumption: Decimal = Field(max_digits=18, decimal_places=6)


@strawberry.input
class ReadingInput:
    start_at: datetime.datetime
    consumption: Decimal


@strawberry.input
class RecordReadingsInput:
    meter_id: strawberry.ID
    readings: list[ReadingInput]


@strawberry.type
class UserError:
    code: str
    message: str


@strawberry.type
class RecordReadingsPayload:
    accepted: int
    changed: int
    user_errors: list[UserError] = strawberry.field(default_factory=list)


@strawberry.type
class Query:
    @strawberry.field
    def ready(self) -> bool:
        return True


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def record_readings(self, input: RecordReadingsInput) -> RecordReadingsPayload:
        wanted = {
            reading.start_at.astimezone(datetime.UTC).replace(tzinfo=None): reading.consumption
            for reading in input.readings
        }
        async with AsyncSession(engine) as session:
            found = await session.exec(
                select(Reading).where(
                    Reading.meter_id == input.meter_id,
                    col(Reading.start_at).between(min(wanted), max(wanted)),
                )
            )
            rows = {row.start_at: row for row in found}
            changed = 0
            for start_at, consumption in wanted.items():
                row = rows.get(start_at)
                if row is None:
                    session.add(Reading(meter_id=input.meter_id, start_at=start_at, consumption=consumption))
                    changed += 1
                elif row.consumption != consumption:
                    row.consumption = consumption
                    changed += 1
            await session.commit()
        return RecordReadingsPayload(accepted=len(input.readings), changed=changed)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield
    await engine.dispose()


schema = strawberry.Schema(Query, Mutation)
graphql: GraphQL[None, None] = GraphQL(schema)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", graphql)])
