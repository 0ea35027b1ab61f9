"""The trying of a feed: its source is asked which meters it shows, with no transaction open meanwhile."""

import asyncio
from typing import Any, Final

from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.db.database import run_script
from app.db.raw_statements import Script
from app.events import log
from app.feeds import actions, attention
from app.feeds.check_limits import AT_ONCE, EVERY
from app.feeds.credentials import Sources
from app.feeds.enums import FeedStatus
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.models import Feed
from app.feeds.source import MOST_METERS
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.text import quotable

DEADLINE: Final = 15.0
"""Seconds that a source has for its whole answer."""

_CODES: Final = {Meaning.FEED: ErrorCode.INVALID, Meaning.WAIT: ErrorCode.LIMIT_REACHED}


def begin(actor: Actor, feed_id: str) -> Script[Feed]:
    """The feed that is to be checked. Raises NOT_FOUND, and LIMIT_REACHED where it was checked too often."""
    feed = yield from actions.lock(actor, feed_id)
    now = clock.now()
    until = max(feed.checks_until or now, now)
    if until - now > (AT_ONCE - 1) * EVERY:
        seconds = (until - now - (AT_ONCE - 1) * EVERY).total_seconds()
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"This feed was checked often just now: try again in {seconds:.0f} seconds.",
            "feedId",
        )
    feed.checks_until = until + EVERY
    yield from actions.note_check(feed)
    return feed


async def ask(sources: Sources, feed: Feed) -> list[dict[str, Any]]:
    """The meters that the feed's source shows, as plain values. Raises SourceFailure."""
    try:
        async with asyncio.timeout(DEADLINE):
            found = await sources.open(feed).discover()
    except TimeoutError:
        raise SourceFailure(
            Meaning.RETRY, f"The source did not answer within {DEADLINE:.0f} seconds: try again later."
        ) from None
    return [
        {
            "number": one.number,
            "type": one.type.name,
            "channel": one.channel.name,
            # A thousand of them are an answer, and are kept for a repeated request.
            "description": None if one.description is None else quotable(one.description),
        }
        for one in found[:MOST_METERS]
    ]


async def succeed(session: AsyncSession, actor: Actor, checked: Feed) -> Feed:
    """The source has answered: a feed that needed attention goes on."""
    return await run_script(session, _note_success(actor, checked))


async def fail(
    session: AsyncSession, links: MailLinks, actor: Actor, checked: Feed, failure: SourceFailure
) -> Feed:
    """The source has not answered as it should: a feed that is to blame rests, and people are told of it, once."""
    if failure.meaning is Meaning.FEED:
        # The log is locked before the feed, as where a worker reports it.
        await log.lock_position(session, actor.account_id)
    feed = await run_script(session, _unchanged(actor, checked))
    if failure.meaning is Meaning.FEED:
        await attention.report(session, links, feed.id, failure.message)
        return await run_script(session, _note_reason(actor, feed.id, failure.message))
    return feed


def refusal_of(failure: SourceFailure) -> Refusal:
    """The failure as an entry of userErrors."""
    return Refusal(_CODES.get(failure.meaning, ErrorCode.CONFLICT), failure.message, "feedId")


def _note_success(actor: Actor, checked: Feed) -> Script[Feed]:
    feed = yield from _unchanged(actor, checked)
    if feed.status == FeedStatus.NEEDS_ATTENTION.name:
        feed.status = FeedStatus.ACTIVE.name
    if (feed.status, feed.attention) != (checked.status, None):
        feed.attention = None
        yield from actions.save(feed)
    return feed


def _note_reason(actor: Actor, feed_id: str, sentence: str) -> Script[Feed]:
    """Says why a feed rests, where it is for another reason than before."""
    feed = yield from actions.lock(actor, feed_id)
    if feed.status == FeedStatus.NEEDS_ATTENTION.name and feed.attention != sentence:
        feed.attention = sentence
        yield from actions.save(feed)
    return feed


def _unchanged(actor: Actor, checked: Feed) -> Script[Feed]:
    """The feed, locked. Raises NOT_FOUND, and CONFLICT if its credentials or settings are others than were checked."""
    feed = yield from actions.lock(actor, checked.id)
    if (feed.credentials_encrypted, feed.settings) != (checked.credentials_encrypted, checked.settings):
        raise Refusal(
            ErrorCode.CONFLICT, "The feed was changed while it was checked: check it again.", "feedId"
        )
    return feed
