"""Channels of a meter: each has its own readings, events, coverage and revisions."""

import asyncio
from typing import Any

import pytest
from sqlmodel import col, update

from app.events.models import EventRecord
from tests.readings.metered import Metered, metered, reading
from tests.support import World

pytestmark = pytest.mark.both_databases

BY_CHANNEL = """
query ($id: ID!) {
  meter(id: $id) {
    a: intervalData { channel total }
    b: intervalData(channel: EXPORT) { channel total }
    c: intervalData(channel: GENERATION, lookback: "1d", granularity: DAY) { channel total }
    coverage(channel: EXPORT) { channel from present estimated latestAt }
    revisions(channel: EXPORT) { nodes { startAt consumption quality reason } }
  }
  intervalData(meterId: $id, channel: EXPORT, from: "2024-05-01T00:00:00Z", to: "2024-05-02T00:00:00Z") {
    intervals { startAt consumption quality }
  }
}
"""


async def ask(meter: Metered, query: str, **variables: Any) -> dict[str, Any]:
    data: dict[str, Any] = await meter.world.data(
        query, {"id": meter.meter_id, **variables}, key=meter.account.key
    )
    return data


async def test_channels_are_kept_apart(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"), reading("00:30", "2"))
    await meter.record(reading("00:00", "10", "ESTIMATED"), channel="EXPORT")
    payload = await meter.record(reading("00:00", "11", "ESTIMATED"), channel="EXPORT")
    assert (payload["accepted"], payload["changed"]) == (1, 1)
    data = await ask(meter, BY_CHANNEL)
    assert data == {
        "meter": {
            "a": {"channel": "IMPORT", "total": "3"},
            "b": {"channel": "EXPORT", "total": "11"},
            "c": {"channel": "GENERATION", "total": "0"},
            "coverage": {
                "channel": "EXPORT",
                "from": "2024-05-01T00:00:00.000Z",
                "present": 1,
                "estimated": 1,
                "latestAt": "2024-05-01T00:00:00.000Z",
            },
            "revisions": {
                "nodes": [
                    {
                        "startAt": "2024-05-01T00:00:00.000Z",
                        "consumption": "10",
                        "quality": "ESTIMATED",
                        "reason": "PUSH",
                    }
                ]
            },
        },
        "intervalData": {
            "intervals": [
                {"startAt": "2024-05-01T00:00:00.000Z", "consumption": "11", "quality": "ESTIMATED"}
            ]
        },
    }
    told = [
        (one.data["channel"], one.data["intervalCount"], one.data["estimatedCount"])
        for one in await meter.received()
    ]
    assert told == [("IMPORT", 2, 0), ("EXPORT", 1, 1), ("EXPORT", 1, 1)]


async def test_writers_of_two_channels_of_one_day_meet(world: World) -> None:
    meter = await metered(world)
    times = [f"{hour:02}:00" for hour in range(23)]
    await asyncio.gather(
        *(meter.record(reading(time, "1")) for time in times[::2]),
        *(meter.record(reading(time, "1"), reading("12:00", "1")) for time in times[1::2]),
        *(meter.record(reading(time, "2"), channel="EXPORT") for time in times),
    )
    data = await ask(meter, BY_CHANNEL)
    assert [data["meter"][one]["total"] for one in "ab"] == ["23", "46"]
    assert sum(one.data["intervalCount"] for one in await meter.received()) == 46
    assert data["meter"]["revisions"]["nodes"] == []


EVENT = """
{ events(filter: {types: [METER_DATA_RECEIVED]}) { nodes { ... on MeterDataReceivedEvent {
  channel reason estimatedCount part parts
} } } }
"""


async def test_an_event_of_a_version_before_channels_is_of_import_by_push(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1", "ESTIMATED"), channel="GENERATION")
    shown = (
        await ask(meter, EVENT.replace("{ events", "query ($id: ID!) { node(id: $id) { id } events", 1))
    )["events"]
    told = {"channel": "GENERATION", "reason": "PUSH", "estimatedCount": 1, "part": None, "parts": None}
    assert shown["nodes"] == [told]
    [event] = await meter.received()
    older = {name: event.data[name] for name in ("meterId", "customerId", "from", "to", "intervalCount")}
    async with world.database.transaction() as session:
        await session.execute(
            update(EventRecord).where(col(EventRecord.sequence) == event.sequence).values(data=older)
        )
    shown = (
        await ask(meter, EVENT.replace("{ events", "query ($id: ID!) { node(id: $id) { id } events", 1))
    )["events"]
    assert shown["nodes"] == [told | {"channel": "IMPORT", "estimatedCount": None}]
