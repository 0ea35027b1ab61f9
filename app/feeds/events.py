"""Events about feeds and backfills."""

from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field

from app.events.catalogue import EventData, Instant
from app.feeds.enums import BackfillStatus, FeedKind
from app.feeds.models import Backfill, Feed


class BackfillCompleted(EventData):
    type: ClassVar = "backfill.completed"
    place: ClassVar = 8
    words: ClassVar = "Backfill completed"
    summary: ClassVar = "the history of a meter was fetched"
    description: ClassVar = (
        "All that the source has of a backfill's period was fetched: COMPLETE, or COMPLETE_WITH_GAPS, and missing "
        "counts the half-hours that are not there. meter_data.received has told of each part that changed readings."
    )
    example: ClassVar[dict[str, Any]] = {
        "backfillId": "bkf_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "meterId": "mtr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "customerId": "cus_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "feedId": "fed_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "status": "COMPLETE",
        "from": "2025-10-24T23:00:00.000Z",
        "to": "2026-11-24T00:00:00.000Z",
        "readingsChanged": 19010,
        "missing": 0,
    }
    notes: ClassVar[dict[str, Any]] = {"feedId": None}

    backfill_id: str
    meter_id: str
    customer_id: str
    # None once the feed is deleted.
    feed_id: str | None
    status: BackfillStatus
    # "from" is a keyword of Python.
    start: Instant = Field(serialization_alias="from")
    to: Instant
    readings_changed: int = Field(ge=0)
    missing: int = Field(ge=0)

    @classmethod
    def of(
        cls, backfill: Backfill, customer_id: str, starts_at: datetime, missing: int
    ) -> "BackfillCompleted":
        """The event of a backfill that has ended.

        `starts_at` is the start of what was fetched, which is later than the backfill's own where the source has
        nothing before it; `missing` counts half-hours from then on.
        """
        return cls(
            backfill_id=backfill.id,
            meter_id=backfill.meter_id,
            customer_id=customer_id,
            feed_id=backfill.feed_id,
            status=BackfillStatus[backfill.status],
            start=starts_at,
            to=backfill.ends_at,
            readings_changed=backfill.readings_changed,
            missing=missing,
        )

    def subject_id(self) -> str:
        return self.backfill_id

    def about_customer(self) -> str:
        return self.customer_id

    def about_meters(self) -> tuple[str]:
        return (self.meter_id,)


class FeedAttentionNeeded(EventData):
    type: ClassVar = "feed.attention_needed"
    place: ClassVar = 10
    words: ClassVar = "Feed needs attention"
    summary: ClassVar = "a feed rests until a person has mended it"
    description: ClassVar = (
        "A feed cannot go on by itself: attention says what a person has to do. It rests until updateFeed or "
        "checkFeed has set it right."
    )
    example: ClassVar[dict[str, Any]] = {
        "feedId": "fed_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "kind": "OCTOPUS",
        "attention": "The source refuses the credentials (401): send valid ones with updateFeed.",
    }

    feed_id: str
    kind: FeedKind
    attention: str

    @classmethod
    def of(cls, feed: Feed) -> "FeedAttentionNeeded":
        return cls(feed_id=feed.id, kind=FeedKind[feed.kind], attention=feed.attention or "")

    def subject_id(self) -> str:
        return self.feed_id
