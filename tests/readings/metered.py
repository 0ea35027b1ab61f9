"""Meters with a valid consent, and helpers that record readings and read them back."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from app.core.clock import HALF_HOUR, format_utc, parse_utc
from app.events.models import EventRecord
from app.readings.actions import MAX_READINGS
from app.readings.enums import ReadingQuality
from tests.accounts.state import events, mutation
from tests.meters.asking import make_consent, make_customer, make_meter, run
from tests.readings.generated_year import METER_NUMBER, YearReading
from tests.support import TestAccount, World

RECORD = mutation("recordReadings", "meter { id } accepted changed")
INTERVALS = (
    "query ($meterId: ID!, $from: DateTime, $to: DateTime, $lookback: String, $granularity: Granularity! = HALF_HOUR) "
    "{ intervalData(meterId: $meterId, from: $from, to: $to, lookback: $lookback, granularity: $granularity) "
    "{ meter { id } from to granularity unit total missingCount "
    "intervals { startAt endAt consumption quality missingCount } } }"
)


@dataclass(frozen=True)
class Metered:
    """A meter with a valid consent, in an account of its own."""

    world: World
    account: TestAccount
    customer_id: str
    meter_id: str

    async def record(self, *readings: dict[str, Any], **more: Any) -> dict[str, Any]:
        given = {"meterId": self.meter_id, "readings": list(readings), **more}
        return await run(self.world, self.account, RECORD, **given)

    async def record_year(self, readings: Sequence[YearReading]) -> None:
        """Records a whole year, in as many mutations as it takes."""
        for start in range(0, len(readings), MAX_READINGS):
            some = readings[start : start + MAX_READINGS]
            payload = await self.record(*(reading(at, kwh, quality.name) for at, kwh, quality in some))
            assert payload == {
                "meter": {"id": self.meter_id},
                "accepted": len(some),
                "changed": len(some),
                "userErrors": [],
            }

    async def intervals(self, **arguments: Any) -> dict[str, Any]:
        response = await self.world.data(
            INTERVALS, {"meterId": self.meter_id, **arguments}, key=self.account.key
        )
        found: dict[str, Any] = response["intervalData"]
        return found

    async def received(self) -> list[EventRecord]:
        """The account's meter_data.received events."""
        log = await events(self.world, self.account.id)
        return [one for one in log if one.type == "meter_data.received"]


async def metered(world: World, number: str = METER_NUMBER) -> Metered:
    account = await world.account()
    customer_id = await make_customer(world, account)
    await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id, number)
    return Metered(world, account, customer_id, meter["id"])


def reading(start: datetime | str, kwh: Decimal | str, quality: str | None = None) -> dict[str, Any]:
    """A reading of a mutation's input; a time alone is on 2024-05-01."""
    at = format_utc(start) if isinstance(start, datetime) else at_may_first(start)
    given = {"startAt": at, "consumption": str(kwh)}
    return given if quality is None else {**given, "quality": quality}


def at_may_first(time: str) -> str:
    return time if "T" in time else f"2024-05-01T{time}:00.000Z"


def half_hour_later(instant: str) -> str:
    return format_utc(parse_utc(instant) + timedelta(minutes=30))


def as_csv(readings: Sequence[YearReading], meter_id: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["meter_id", "start_at", "consumption", "quality"])
    writer.writerows((meter_id, format_utc(at), kwh, quality.name) for at, kwh, quality in readings)
    return text.getvalue().encode()


def as_ndjson(readings: Sequence[YearReading], meter_number: str) -> bytes:
    """Readings with consumption as JSON numbers."""
    return b"".join(
        orjson.dumps(
            {
                "meter_number": meter_number,
                "start_at": format_utc(at),
                "consumption": orjson.Fragment(str(kwh)),
                "quality": quality.name,
            }
        )
        + b"\n"
        for at, kwh, quality in readings
    )


def as_intervals(readings: Sequence[YearReading]) -> list[dict[str, Any]]:
    """The half-hourly intervals that these readings make."""
    return [
        {
            "startAt": format_utc(at),
            "endAt": format_utc(at + HALF_HOUR),
            "consumption": plain(kwh),
            "quality": quality.name,
            "missingCount": 0,
        }
        for at, kwh, quality in readings
    ]


def plain(kwh: Decimal) -> str:
    """The decimal without trailing zeros or exponent."""
    text = f"{kwh:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def sums(readings: Sequence[YearReading], key: Any) -> dict[Any, tuple[Decimal, int, bool]]:
    """Groups readings by a key of their start into sum, count and whether any is estimated."""
    found: dict[Any, tuple[Decimal, int, bool]] = {}
    for at, kwh, quality in readings:
        total, count, estimated = found.get(key(at), (Decimal(0), 0, False))
        found[key(at)] = total + kwh, count + 1, estimated or quality is ReadingQuality.ESTIMATED
    return found
