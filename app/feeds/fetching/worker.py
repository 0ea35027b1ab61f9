"""The worker of feeds: claims credentials with due work by lease, and asks their sources, one request at a time each.

A worker that dies leaves its leases to expire, and another goes on from what is recorded. A feed that fails or hangs
rests by itself: it takes one of the places, of which no account has more than a few.
"""

import asyncio
import contextlib
import secrets
import time
from collections import Counter, OrderedDict, deque
from datetime import datetime
from typing import Final, Protocol

import structlog
from sqlalchemy import bindparam, select
from sqlmodel import col

from app.core import clock, failpoints
from app.core.outages import error_name, is_conflict, is_transient
from app.core.periodic import Bell
from app.db.database import Database
from app.events import log as events
from app.feeds import attention
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.fetching import leases
from app.feeds.fetching.due_work import ORDER, Work, next_work
from app.feeds.fetching.fetch import DEADLINE, Found, fetch
from app.feeds.fetching.leases import Candidate, Claim, LeaseLost
from app.feeds.fetching.recording import Outcome, drop, note_failure, record, settle
from app.feeds.fetching.scheduling import retry_rest, wait_rest
from app.feeds.fetching.stats import FeedStats
from app.feeds.models import Feed
from app.feeds.source import Source
from app.outbound.mail.link_tokens import MailLinks
from app.readings.enums import ReadingReason

AT_ONCE: Final = 64
"""Credentials that a worker holds at the same time."""
OF_ACCOUNT: Final = 16
"""Credentials of one account among them."""
CANDIDATES: Final = 256
"""Credentials that a search finds at most."""
TURN_SECONDS: Final = 5.0
"""A credential is given back after so long, for others to have its place."""
RENEW_EVERY: Final = 10.0
"""Seconds between renewals of a lease: two may fail before it expires."""
POLL_EVERY: Final = 1.0
"""Seconds between searches for due credentials, at least."""
SEARCH_SHARE: Final = 20
"""The pause after a search for due credentials, in times of its length."""
MOST_CONFLICTS: Final = 3
"""Times that a record is run again after a conflict with another transaction."""
STOP_SECONDS: Final = 2.0
"""For recording what was fetched before a stop."""
SOURCES_KEPT: Final = 1_000
"""Opened sources that a worker keeps, with the tokens and lists that they have."""
TURNS: Final = 4
"""Of so many pieces of work one is not by the usual order, so that nothing waits for a long backfill's end."""

_UPDATED_AT: Final = select(col(Feed.updated_at)).where(col(Feed.id) == bindparam("id")).with_for_update()

log = structlog.get_logger(__name__)


class OpensSources(Protocol):
    """Opens the source of a feed. Raises SourceFailure where a person has to do something first."""

    def open(self, feed: Feed) -> Source: ...


class FeedWorker:
    """`turn` begins work for as many credentials as there is room for; `bell` rings when there is room again."""

    def __init__(
        self,
        database: Database,
        sources: OpensSources,
        links: MailLinks,
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._database = database
        self._sources = sources
        self._links = links
        self._deadline = deadline
        self.bell = Bell()
        self.stats = FeedStats()
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._waiting: dict[str, Candidate] = {}
        self._search_at = 0.0
        self._opened: OrderedDict[tuple[str, datetime], Source] = OrderedDict()

    @property
    def held(self) -> int:
        """Credentials that this worker works with."""
        return len(self._running)

    async def turn(self) -> float:
        """Claims due credentials while there is room; gives the seconds until the next turn."""
        await self.stats.count_due(self._database)
        if time.monotonic() >= self._search_at:
            await self._search()
        for candidate in list(self._waiting.values()):
            if len(self._running) >= AT_ONCE:
                break
            if self._of_account()[candidate.account_id] >= OF_ACCOUNT:
                continue
            del self._waiting[candidate.key]
            claim = await leases.claim(self._database, candidate.key)
            if claim is not None:
                failpoints.reach("feed.claimed")
                task = asyncio.create_task(self._run(claim), name=f"feed {claim.key}")
                self._running[claim.key] = candidate.account_id, task
                # A task that is cancelled before it has begun would keep its lease.
                await asyncio.sleep(0)
        return max(self._search_at - time.monotonic(), 0.001)

    async def aclose(self) -> None:
        """Gives the credentials back, for another worker."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _of_account(self) -> Counter[str]:
        return Counter(account_id for account_id, _ in self._running.values())

    async def _search(self) -> None:
        """Looks for due credentials from a place by chance on, so that none of many is passed over for ever."""
        started = time.monotonic()
        found = await leases.due_credentials(self._database, secrets.token_hex(4), CANDIDATES)
        if len(found) < CANDIDATES:
            found += await leases.due_credentials(self._database, "", CANDIDATES - len(found))
        running = self._of_account()
        waiting = Counter(one.account_id for one in self._waiting.values())
        # Accounts that have the fewest places come first.
        for one in sorted(found, key=lambda one: running[one.account_id]):
            if one.key not in self._running and waiting[one.account_id] < OF_ACCOUNT:
                waiting[one.account_id] += one.key not in self._waiting
                self._waiting.setdefault(one.key, one)
        ended = time.monotonic()
        self._search_at = ended + max(POLL_EVERY, SEARCH_SHARE * (ended - started))

    async def _run(self, claim: Claim) -> None:
        renewing = asyncio.create_task(self._renew(claim))
        working = asyncio.create_task(_Turn(self, claim).work())
        try:
            await asyncio.wait([renewing, working], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (renewing, working):
                task.cancel()
            lost, outcome = await asyncio.gather(renewing, working, return_exceptions=True)
            try:
                await self._give_back(claim, lost if isinstance(lost, LeaseLost) else outcome)
            finally:
                self._running.pop(claim.key, None)
                self.bell.ring()

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await leases.renew(self._database, claim)

    async def _give_back(self, claim: Claim, outcome: float | BaseException | None) -> None:
        if isinstance(outcome, LeaseLost):
            self.stats.leases_lost += 1
            log.warning("feed_lease_lost")
            return
        rest_seconds = outcome if isinstance(outcome, float) else 0.0
        if isinstance(outcome, Exception):
            rest_seconds = POLL_EVERY
            if is_transient(outcome):
                log.warning("feed_interrupted", error=error_name(outcome))
            else:
                log.error("feed_failed", exc_info=outcome)
        # If the database is away, the lease expires.
        with contextlib.suppress(Exception):
            await leases.release(self._database, claim, rest_seconds)

    def source_of(self, feed: Feed) -> Source:
        """The feed's source, kept while the feed is as it is. Raises SourceFailure."""
        place = feed.id, feed.updated_at
        source = self._opened.get(place)
        if source is None:
            source = self._opened[place] = self._sources.open(feed)
            if len(self._opened) > SOURCES_KEPT:
                self._opened.popitem(last=False)
        self._opened.move_to_end(place)
        return source

    async def fetch(self, work: Work) -> Found:
        """Asks the source of a feed. Raises SourceFailure."""
        kind = work.feed.kind
        assert work.window is not None  # noqa: S101 - other work is settled
        self.stats.in_flight[kind] += 1
        try:
            found = await fetch(self.source_of(work.feed), work, work.window, self._deadline)
        except SourceFailure as failure:
            self.stats.failures[kind, failure.meaning.name] += 1
            raise
        finally:
            self.stats.in_flight[kind] -= 1
        self.stats.half_hours[kind] += found.half_hours
        return found

    async def next(self, feed: Feed, reason: ReadingReason, busy: str) -> Work | None:
        """The feed's longest due work of a kind but that of the meter `busy`; None if nothing is due."""
        return await next_work(self._database, feed, reason, busy, clock.now())

    async def record(self, work: Work, claim: Claim, found: Found) -> None:
        """Records a fetch; a conflict with another transaction has it run again."""
        for tries in range(MOST_CONFLICTS + 1):
            try:
                outcome = await self._database.transact(
                    lambda transaction: record(transaction, work, claim, found)
                )
                break
            except Exception as error:
                if tries == MOST_CONFLICTS or not is_conflict(error):
                    raise
        if outcome is Outcome.DROPPED:
            self.stats.dropped[work.feed.kind] += 1
        failpoints.reach("feed.recorded")

    async def note_failure(self, work: Work, claim: Claim, failure: SourceFailure) -> None:
        """Writes down a failure, and puts the work off. Raises LeaseLost."""
        await self._database.transact(lambda transaction: note_failure(transaction, work, claim, failure))
        failpoints.reach("feed.failure_recorded")

    async def need_attention(self, feed: Feed, sentence: str) -> None:
        """Lets the feed rest until a person has mended it, unless somebody has changed it meanwhile."""
        async with self._database.transaction() as session:
            # The log is locked before the feed, as where a feed's attention is reported.
            await events.lock_position(session, feed.account_id)
            updated_at = (await session.execute(_UPDATED_AT, {"id": feed.id})).scalar_one_or_none()
            if updated_at == feed.updated_at:
                await attention.report(session, self._links, feed.id, sentence)
        failpoints.reach("feed.attention_recorded")

    async def end(self, work: Work) -> None:
        """Ends work that is not wanted, or of which nothing is left."""
        act = drop if not work.is_wanted else settle
        await self._database.transact(lambda transaction: act(transaction, work))


class _Turn:
    """Some seconds of work by one credential: the next fetch runs while the last one is recorded."""

    def __init__(self, worker: FeedWorker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._feeds = deque(claim.feeds)
        self._recording: asyncio.Task[None] | None = None
        self._recorded = ""
        self._count = 0
        # Sorts of work that a feed has none of are not looked for again in this turn.
        self._exhausted: set[tuple[str, ReadingReason]] = set()
        self._ended: list[Work] = []

    async def work(self) -> float:
        """Gives the seconds that the credential is to rest."""
        ends_at = time.monotonic() + TURN_SECONDS
        try:
            while time.monotonic() < ends_at and (work := await self._next()) is not None:
                if not work.is_wanted or work.window is None:
                    if work in self._ended:
                        # The clocks of the database and of this process do not agree yet that a consent has ended.
                        return POLL_EVERY
                    self._ended.append(work)
                    await self._worker.end(work)
                elif (rest_seconds := await self._do(work)) > 0:
                    return rest_seconds
            await self._wait()
            return 0.0
        finally:
            if self._recording is not None:
                # A stop does not throw a fetch away that is complete.
                await asyncio.wait([self._recording], timeout=STOP_SECONDS)
                self._recording.cancel()

    async def _next(self) -> Work | None:
        """The next due work of the feeds, in turn. The last one being recorded counts as done."""
        self._count += 1
        order = ORDER if self._count % TURNS else ORDER[::-1]
        for _ in range(len(self._feeds)):
            self._feeds.rotate(-1)
            feed = self._feeds[-1]
            for reason in order:
                if (feed.id, reason) in self._exhausted:
                    continue
                work = await self._worker.next(feed, reason, self._recorded)
                if work is None and self._recorded:
                    # The rest of it may be the only work that is due.
                    await self._wait()
                    work = await self._worker.next(feed, reason, "")
                if work is not None:
                    return work
                self._exhausted.add((feed.id, reason))
        return None

    async def _do(self, work: Work) -> float:
        """Fetches a piece of work and begins to record it; gives the seconds to rest after a failure."""
        claim, worker = self._claim, self._worker
        claim.asked.add(work.feed.id)
        try:
            found = await worker.fetch(work)
        except SourceFailure as failure:
            await self._wait()
            return await self._fail(work, failure)
        claim.failures = 0
        failpoints.reach("feed.fetched")
        await self._wait()
        self._recorded = work.meter_id
        self._recording = asyncio.create_task(worker.record(work, claim, found))
        return 0.0

    async def _fail(self, work: Work, failure: SourceFailure) -> float:
        claim, worker = self._claim, self._worker
        if failure.meaning is Meaning.FEED:
            await worker.need_attention(work.feed, failure.message)
            self._feeds.remove(work.feed)
            return 0.0
        if failure.meaning is Meaning.METER:
            await worker.note_failure(work, claim, failure)
            return 0.0
        claim.failures += 1
        if failure.meaning is Meaning.WAIT:
            return wait_rest(claim.failures, failure.retry_after)
        await worker.note_failure(work, claim, failure)
        return retry_rest(claim.failures, failure.retry_after)

    async def _wait(self) -> None:
        """Waits until the last fetch is recorded."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            await recording
            self._recorded = ""
