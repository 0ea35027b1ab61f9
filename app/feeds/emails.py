"""The wording of mails about feeds and backfills."""

from collections.abc import Mapping
from typing import Final

from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.clock import parse_utc
from app.customers.emails import customer_name
from app.events.models import EventRecord
from app.feeds.enums import BackfillStatus
from app.feeds.events import BackfillCompleted, FeedAttentionNeeded
from app.feeds.models import Feed
from app.meters.emails import number_of
from app.meters.models import Meter
from app.outbound.mail.rendering import count, uk_time
from app.outbound.mail.wording import MailFacts, Wording


async def backfill_completed(session: AsyncSession, event: EventRecord) -> MailFacts:
    data, customer = event.data, await customer_name(session, event)
    number = number_of(await session.get(Meter, data["meterId"]))
    has_gaps = data["status"] == BackfillStatus.COMPLETE_WITH_GAPS.name
    end = f"but for {count(data['missing'], 'half-hour')}" if has_gaps else "and complete"
    return MailFacts(
        f"The history of meter {number} is here, {end}",
        [
            ("Meter", number),
            ("Customer", customer),
            ("From", uk_time(parse_utc(data["from"]))),
            ("To", uk_time(parse_utc(data["to"]))),
            ("New or changed", count(data["readingsChanged"], "half-hour")),
            ("Missing", count(data["missing"], "half-hour")),
        ],
    )


async def attention_needed(session: AsyncSession, event: EventRecord) -> MailFacts:
    feed = await session.get(Feed, event.data["feedId"])
    name = feed.name if feed is not None else "a deleted feed"
    return MailFacts(
        f"A feed needs a person: {name}",
        [
            ("Feed", name),
            ("Kind", event.data["kind"]),
            ("Id", event.data["feedId"]),
            ("What to do", event.data["attention"]),
        ],
    )


WORDING: Final[Mapping[str, Wording]] = {
    BackfillCompleted.type: backfill_completed,
    FeedAttentionNeeded.type: attention_needed,
}
