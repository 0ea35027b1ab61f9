"""A feed that needs a person: it rests, an event tells of it, and administrators are mailed, each once."""

from datetime import timedelta
from typing import Final

from sqlalchemy import bindparam, select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.confirmation import notice_recipients
from app.accounts.letterhead import account_name
from app.core import clock
from app.db.database import run_script
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.events import log
from app.feeds.enums import FeedStatus
from app.feeds.events import FeedAttentionNeeded
from app.feeds.models import Feed
from app.outbound.mail import rendering
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.mail_queue import enqueue, mails_since
from app.outbound.mail.mime import plain_address

MOST_CHARACTERS: Final = 1000
"""Characters of a sentence about a feed."""
A_DAY: Final = timedelta(days=1)
MAILS_A_DAY: Final = 3
"""Mails about one feed to one address."""

_FEEDS: Final = Table(Feed)
_LOCK: Final = select(*_FEEDS.columns).where(col(Feed.id) == bindparam("wanted_id")).with_for_update()
_ACCOUNT: Final = select(col(Feed.account_id)).where(col(Feed.id) == bindparam("wanted_id"))
_SAVE: Final = _FEEDS.updating("status", "attention", "updated_at")


def need_attention(transaction: InTransaction, feed_id: str, sentence: str) -> Script[Feed | None]:
    """Lets a feed rest until a person has done what the sentence says, and appends the event.

    Gives the feed where this is news: neither for one that rests already nor for one that a person paused.
    Administrators are mailed by `tell_administrators`.
    """
    found = yield _LOCK, {"wanted_id": feed_id}
    if not found:
        return None
    feed = _FEEDS.row(found[0])
    if feed.status != FeedStatus.ACTIVE.name:
        return None
    feed.status, feed.attention = FeedStatus.NEEDS_ATTENTION.name, sentence[:MOST_CHARACTERS]
    feed.updated_at = clock.now()
    yield from _SAVE(feed)
    log.append(transaction, feed.account_id, FeedAttentionNeeded.of(feed))
    return feed


async def report(session: AsyncSession, links: MailLinks, feed_id: str, sentence: str) -> Feed | None:
    """The same, with the mails to administrators."""
    account_id = (await session.execute(_ACCOUNT, {"wanted_id": feed_id})).scalar_one_or_none()
    if account_id is None:
        return None
    # The log is locked before mailboxes, as everywhere.
    await log.lock_position(session, account_id)
    feed = await run_script(session, need_attention(session, feed_id, sentence))
    if feed is not None:
        await tell_administrators(session, links, feed)
    return feed


async def tell_administrators(session: AsyncSession, links: MailLinks, feed: Feed) -> None:
    """Queues a mail about the feed's attention to each confirmed address of the account's administrators.

    A feed that is set going again and again with what is wrong still mails each of them a few times a day only.
    """
    account = await account_name(session, feed.account_id)
    subject = rendering.shorten(f"A feed needs you: {feed.name} ({account})", rendering.MAX_SUBJECT)
    facts = [("Feed", feed.name), ("Kind", feed.kind), ("Id", feed.id), ("What to do", feed.attention or "")]
    mail = rendering.laid_out(
        "notice",
        subject,
        {
            "headline": subject,
            "account": account,
            "what": "This feed fetches nothing until a person has set it right. Nothing is lost: what it misses "
            "meanwhile is fetched afterwards.",
            "rows": [(name, rendering.shorten(value, 500)) for name, value in facts],
            "steps": (
                (
                    "When that is done, try the feed; it goes on if the source answers:",
                    f'checkFeed(input: {{feedId: "{feed.id}"}})',
                ),
            ),
        },
    )
    for address in await notice_recipients(session, links, feed.account_id):
        try:
            recipient = plain_address(address)
        except ValueError:
            continue
        if await mails_since(session, feed.id, recipient, clock.now() - A_DAY) >= MAILS_A_DAY:
            continue
        enqueue(session, links.keyring, feed.account_id, recipient, mail, feed.id)
