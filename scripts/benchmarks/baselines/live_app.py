"""Live events the idiomatic way: Strawberry and broadcaster as their manuals show, one execution per socket.

Kind to the baseline: no authentication and no database. `BENCH_METER` (JSON) is the one meter it knows, so that
both sides send the same object.
"""

import datetime
import json
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

import strawberry
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL

METER = json.loads(
    os.environ.get(
        "BENCH_METER",
        '{"id": "mtr_1", "number": "2499999999991", "type": "ELECTRICITY",'
        ' "customer": {"id": "cus_1", "name": "Ada Lovelace", "email": "ada@example.com"}}',
    )
)
METERS = {METER["id"]: METER}

broadcast = Broadcast("memory://")
sequence = 0


@strawberry.enum
class MeterType(Enum):
    ELECTRICITY = "ELECTRICITY"
    GAS = "GAS"


@strawberry.type
class Customer:
    id: strawberry.ID
    name: str
    email: str


@strawberry.type
class Meter:
    id: strawberry.ID
    number: str
    type: MeterType
    customer: Customer


@strawberry.interface
class Event:
    id: strawberry.ID
    name: str
    sequence: int
    occurred_at: datetime.datetime


@strawberry.type
class MeterDataReceivedEvent(Event):
    meter: Meter


@strawberry.input
class ReadingInput:
    start_at: datetime.datetime
    consumption: str


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
    changed: int
    user_errors: list[UserError] = strawberry.field(default_factory=list)


def meter_of(meter_id: str) -> Meter:
    row = METERS[meter_id]
    return Meter(
        id=row["id"],
        number=row["number"],
        type=MeterType(row["type"]),
        customer=Customer(**row["customer"]),
    )


@strawberry.type
class Query:
    @strawberry.field
    def meter(self, id: strawberry.ID) -> Meter:
        return meter_of(id)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def record_readings(self, input: RecordReadingsInput) -> RecordReadingsPayload:
        global sequence
        sequence += 1
        event = {
            "id": f"evt_{secrets.token_hex(13)}",
            "sequence": sequence,
            "occurred_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "meter_id": input.meter_id,
        }
        await broadcast.publish("events", json.dumps(event))
        return RecordReadingsPayload(changed=len(input.readings))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def events(self) -> AsyncGenerator[Event, None]:
        async with broadcast.subscribe("events") as subscriber:
            async for message in subscriber:  # type: ignore[union-attr]
                event = json.loads(message.message)  # type: ignore[union-attr]
                yield MeterDataReceivedEvent(
                    id=event["id"],
                    name="meter_data.received",
                    sequence=event["sequence"],
                    occurred_at=datetime.datetime.fromisoformat(event["occurred_at"]),
                    meter=meter_of(event["meter_id"]),
                )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with broadcast:
        yield


schema = strawberry.Schema(Query, Mutation, Subscription, types=[MeterDataReceivedEvent])
graphql: GraphQL[None, None] = GraphQL(schema)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)])
