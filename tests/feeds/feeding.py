"""Feeds, meters of feeds and backfills that have ended, made without a source."""

from datetime import UTC, datetime

from sqlalchemy import bindparam, select, update
from sqlmodel import col

from app.accounts.models import User
from app.core import clock
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.events import log
from app.feeds import backfill_plans
from app.feeds.attention import need_attention
from app.feeds.credentials import credential_key, sealed
from app.feeds.enums import BackfillStatus, FeedKind
from app.feeds.events import BackfillCompleted
from app.feeds.models import Backfill, Feed, MeterFeed
from app.meters.models import Meter
from tests.support import World

REFUSED = "The source refuses the credentials (401): send valid ones with updateFeed."
NOWHERE = "http://127.0.0.1:9"
MARCH, MAY = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 30, 23, tzinfo=UTC)

_METERS = Table(Meter)
_METER = select(*_METERS.columns).where(col(Meter.id) == bindparam("wanted_id"))
_BACKFILLS = Table(Backfill)
_END = _BACKFILLS.updating("status", "readings_changed", "completed_at")


async def made_feed(world: World, account_id: str, kind: FeedKind = FeedKind.OCTOPUS) -> str:
    """A feed of an account, as createFeed makes it; gives its id."""
    keyring, credentials = world.services.keyring, {"apiKey": "sk_live_of_the_tests"}
    feed = Feed(
        account_id=account_id,
        kind=kind.name,
        name="Homes",
        settings={"baseUrl": NOWHERE},
        credentials_encrypted=sealed(keyring, credentials),
        credential_key=credential_key(keyring, kind, NOWHERE, credentials),
    )
    async with world.database.transaction() as session:
        session.add(feed)
    return feed.id


async def fed_meter(world: World, account_id: str, meter_id: str, feed_id: str) -> None:
    """Sets the feed of a meter, and begins nothing."""
    async with world.database.transaction() as session:
        session.add(MeterFeed(meter_id=meter_id, feed_id=feed_id, account_id=account_id))


async def ended_backfill(
    world: World, meter_id: str, feed_id: str, status: BackfillStatus = BackfillStatus.COMPLETE
) -> str:
    """A backfill of two months that has ended, with its event; gives its id."""

    def act(transaction: InTransaction) -> Script[str]:
        [row] = yield _METER, {"wanted_id": meter_id}
        meter = _METERS.row(row)
        parts = [(MARCH, MAY)]
        backfill = yield from backfill_plans.begin_backfill(transaction, meter, feed_id, MARCH, MAY, parts)
        yield from backfill_plans.end_backfills([meter_id])
        backfill.status, backfill.readings_changed, backfill.completed_at = status.name, 2926, MAY
        yield from _END(backfill)
        missing = 0 if status is BackfillStatus.COMPLETE else 48
        event = BackfillCompleted.of(backfill, meter.customer_id, MARCH, missing)
        log.append(transaction, meter.account_id, event)
        return backfill.id

    return await world.database.transact(act)


async def ail(world: World, feed_id: str, sentence: str = REFUSED) -> None:
    """Lets a feed need a person."""
    await world.database.transact(lambda transaction: need_attention(transaction, feed_id, sentence))


async def confirmed(world: World) -> None:
    """Confirms the addresses of all users, so that notices are mailed to administrators."""
    async with world.database.transaction() as session:
        await session.execute(update(User).values(email_confirmed_at=clock.now(), asked_at=clock.now()))
