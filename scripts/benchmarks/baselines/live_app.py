"""Live events the idiomatic way: Strawberry and broadcaster as their manuals show, one execution per socket.

Kind to the baseline: no authentication and no database. `BENCH_METER` (JSON) is the meter it knows at the start, so
that both sides send the same object.
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


@strawberry.type
class MeterCreatedEvent(Event):
    meter: Meter


EVENTS: dict[str, type[MeterDataReceivedEvent] | type[MeterCreatedEvent]] = {
    "meter_data.received": MeterDataReceivedEvent,
    "meter.created": MeterCreatedEvent,
}


@strawberry.input
class ReadingInput:
    start_at: datetime.datetime
    consumption: str


@strawberry.input
class RecordReadingsInput:
    meter_id: strawberry.ID
    readings: list[ReadingInput]


@strawberry.input
class CreateMeterInput:
    customer_id: strawberry.ID
    number: str


@strawberry.type
class UserError:
    code: str
    message: str


@strawberry.type
class RecordReadingsPayload:
    changed: int
    user_errors: list[UserError] = strawberry.field(default_factory=list)


@strawberry.type
class CreateMeterPayload:
    meter: Meter
    user_errors: list[UserError] = strawberry.field(default_factory=list)


def meter_of(meter_id: str) -> Meter:
    row = METERS[meter_id]
    return Meter(
        id=row["id"],
        number=row["number"],
        type=MeterType(row["type"]),
        customer=Customer(**row["customer"]),
    )


async def publish(name: str, meter_id: str) -> None:
    global sequence
    sequence += 1
    event = {
        "id": f"evt_{secrets.token_hex(13)}",
        "name": name,
        "sequence": sequence,
        "occurred_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "meter_id": meter_id,
    }
    await broadcast.publish("events", json.dumps(event))


@strawberry.type
class Query:
    @strawberry.field
    def meter(self, id: strawberry.ID) -> Meter:
        return meter_of(id)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def record_readings(self, input: RecordReadingsInput) -> RecordReadingsPayload:
        await publish("meter_data.received", input.meter_id)
        return RecordReadingsPayload(changed=len(input.readings))

    @strawberry.mutation
    async def create_meter(self, input: CreateMeterInput) -> CreateMeterPayload:
        meter_id = f"mtr_{secrets.token_hex(13)}"
        METERS[meter_id] = METER | {"id": meter_id, "number": input.number}
        await publish("meter.created", meter_id)
        return CreateMeterPayload(meter=meter_of(meter_id))


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def events(self) -> AsyncGenerator[Event, None]:
        async with broadcast.subscribe("events") as subscriber:
            async for message in subscriber:  # type: ignore[union-attr]
                event = json.loads(message.message)  # type: ignore[union-attr]
                yield EVENTS[event["name"]](
                    id=event["id"],
                    name=event["name"],
                    sequence=event["sequence"],
                    occurred_at=datetime.datetime.fromisoformat(event["occurred_at"]),
                    meter=meter_of(event["meter_id"]),
                )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with broadcast:
        yield


schema = strawberry.Schema(Query, Mutation, Subscription, types=[*EVENTS.values()])
graphql: GraphQL[None, None] = GraphQL(schema)
app = Starlette(lifespan=lifespan, routes=[Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)])
