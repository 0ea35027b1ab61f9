"""Events about readings. They carry meter and period, never the readings."""

from typing import ClassVar

from pydantic import ConfigDict, Field

from app.events.catalogue import EventData, Instant
from app.readings.enums import ReadingChannel, ReadingReason


class MeterDataReceived(EventData):
    type: ClassVar = "meter_data.received"
    place: ClassVar = 1
    words: ClassVar = "Meter data received"
    summary: ClassVar = "readings of a meter were recorded or changed"
    description: ClassVar = (
        "Readings of a meter were recorded or changed. from and to (exclusive) span the half-hours that changed, "
        "intervalCount counts them, estimatedCount the estimated among them; ask intervalData for the readings. "
        "One event tells of one channel, for one reason."
    )
    example: ClassVar = {
        "meterId": "mtr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "customerId": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "from": "2026-11-23T00:00:00.000Z",
        "to": "2026-11-24T00:00:00.000Z",
        "intervalCount": 48,
        "channel": "IMPORT",
        "reason": "PUSH",
        "estimatedCount": 0,
        "backfillId": None,
        "part": None,
        "parts": None,
    }

    # Receivers may count on every key.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    meter_id: str
    customer_id: str
    # "from" is a keyword of Python.
    start: Instant = Field(serialization_alias="from")
    to: Instant
    interval_count: int = Field(ge=1)
    channel: ReadingChannel = ReadingChannel.IMPORT
    reason: ReadingReason = ReadingReason.PUSH
    # None in events of versions that did not count them.
    estimated_count: int | None = Field(default=None, ge=0)
    backfill_id: str | None = None
    part: int | None = None
    parts: int | None = None

    def subject_id(self) -> str:
        return self.meter_id

    def about_customer(self) -> str:
        return self.customer_id

    def about_meters(self) -> tuple[str]:
        return (self.meter_id,)


class MeterDataOverdue(EventData):
    type: ClassVar = "meter_data.overdue"
    place: ClassVar = 11
    words: ClassVar = "Meter data overdue"
    summary: ClassVar = "a meter has had no new readings for five days"
    description: ClassVar = (
        "An active meter that has a feed, or had readings, has had no new ones of a channel for five days. It is told "
        "once for each silence; latestAt is the start of its latest half-hour, null if there is none."
    )
    example: ClassVar = {
        "meterId": "mtr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "customerId": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "channel": "IMPORT",
        "latestAt": "2026-11-23T23:30:00.000Z",
    }

    meter_id: str
    customer_id: str
    channel: ReadingChannel
    latest_at: Instant | None

    def subject_id(self) -> str:
        return self.meter_id

    def about_customer(self) -> str:
        return self.customer_id

    def about_meters(self) -> tuple[str]:
        return (self.meter_id,)
