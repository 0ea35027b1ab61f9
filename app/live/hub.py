"""The live hub: one per process, between what is committed and who listens.

Each account with subscriptions here has a feed. It hears of new events directly from the commits of this process and by
the doorbell from others, and a look at all streams every second covers a doorbell that is lost.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from sqlalchemy import select
from sqlmodel import col

from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.errors import ApiError
from app.core.outages import report
from app.events import cursors
from app.events.doorbell import Doorbell
from app.events.log import Appended
from app.events.models import Stream
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.prepared_operation import PreparedOperation
from app.live import subscribed
from app.live.account_feed import Feed
from app.live.payload import Shelf, Sink
from app.live.subscriber import Subscription

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
# A look that gets no answer for so long is given up: the next one asks over another connection.
LOOK_WITHIN: Final = 5.0
# One statement looks at all active accounts, as many as fit into its parameters.
ACCOUNTS_AT_ONCE: Final = 10_000
LIVE_SLOTS: Final = 8
PAGE_SLOTS: Final = 2


@dataclass
class Stats:
    """What the hub has done so far."""

    events: int = 0
    executions: int = 0
    deliveries: int = 0
    catch_ups: int = 0
    pages: int = 0
    reads: int = 0
    overloads: int = 0
    # Is told the seconds from an event's commit to its hand-over to the last of a viewer's subscriptions.
    observe_lag: Callable[[float], None] | None = None

    def saw(self, occurred_at: datetime) -> None:
        if self.observe_lag is not None:
            self.observe_lag(max(0.0, (clock.now() - occurred_at).total_seconds()))


class Hub:
    """`async with Hub(services, engine, doorbell) as hub`; the doorbell must be open."""

    def __init__(
        self,
        services: Services,
        engine: Engine,
        doorbell: Doorbell,
        *,
        look_every: float = LOOK_EVERY,
        look_within: float = LOOK_WITHIN,
    ) -> None:
        self.services = services
        self.engine = engine
        self.doorbell = doorbell
        self.shelf = Shelf()
        self.stats = Stats()
        self.live_slots = asyncio.Semaphore(LIVE_SLOTS)
        self.page_slots = asyncio.Semaphore(PAGE_SLOTS)
        self._look_every, self._look_within = look_every, look_within
        self._look_now = asyncio.Event()
        self._feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self.spawn(self._keep_looking(), "hub")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all subscriptions, without a word to their consumers."""
        for feed in list(self._feeds.values()):
            for audience in list(feed.audiences.values()):
                for group in list(audience.groups.values()):
                    for subscription in list(group.members):
                        subscription.end()
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    @property
    def subscriptions(self) -> int:
        return sum(len(group.members) for group in self._groups())

    @property
    def groups(self) -> int:
        return sum(1 for _ in self._groups())

    async def subscribe(
        self,
        prepared: PreparedOperation,
        variables: dict[str, Any] | None,
        actor: Actor,
        sink: Sink,
        after: str | None = None,
    ) -> Subscription:
        """Begin a subscription to `events`; `after` beats the operation's own argument.

        Waits for the database where it is away. Raises RequestErrors: wrong variables, a wrong or expired cursor.
        """
        asked_at = self.now()
        try:
            actor.require(Scope.READ)
            request = subscribed.read(self.engine, prepared, variables)
            feed = self._feed(actor.account_id)
            try:
                await feed.opened.wait()
                stream = await feed.latest()
                start = self._start(stream, request.after if after is None else after)
                feed.know(stream.last_sequence)
                group = feed.group(actor, request)
            except BaseException:
                self.release(feed)
                raise
        except ApiError as error:
            raise RequestErrors.of(error) from None
        subscription = Subscription(group, start, sink, asked_at)
        group.members.add(subscription)
        subscription.start()
        return subscription

    def progress(self, subscription: Subscription) -> str:
        """The cursor through which the subscription has been given everything that is for it."""
        return subscription.group.feed.cursor(subscription.reached)

    def committed(self, account_id: str, events: Sequence[Appended]) -> None:
        """Events that this process has just committed, all of one account."""
        feed = self._feeds.get(account_id)
        if feed is not None:
            feed.take(events)

    def look_soon(self) -> None:
        """Look at the streams without waiting for the next second."""
        self._look_now.set()

    def now(self) -> float:
        """The loop's time, read afresh: what the loop itself says is as old as its turn."""
        return time.monotonic()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that ends with the hub at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def release(self, feed: Feed) -> None:
        """One subscription less."""
        feed.users -= 1
        if feed.users == 0 and self._feeds.get(feed.account_id) is feed:
            del self._feeds[feed.account_id]
            feed.close()

    def _feed(self, account_id: str) -> Feed:
        feed = self._feeds.get(account_id)
        if feed is None:
            feed = self._feeds[account_id] = Feed(self, account_id)
        feed.users += 1
        return feed

    def _start(self, stream: Stream, after: str | None) -> int:
        if after is None:
            return stream.last_sequence
        return cursors.decode(self.services.keyring, stream, after)

    def _groups(self) -> Any:
        for feed in self._feeds.values():
            for audience in feed.audiences.values():
                yield from audience.groups.values()

    async def _keep_looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_every):
                    await self._look_now.wait()
            except TimeoutError:
                pass
            self._look_now.clear()
            self.shelf.clear_old(self.now())
            try:
                async with asyncio.timeout(self._look_within):
                    await self._look()
            except Exception as error:
                report("looking at the streams failed, it will be tried again", error)

    async def _look(self) -> None:
        """Compare every feed's position with its stream."""
        positions = {
            account_id: feed.position for account_id, feed in self._feeds.items() if feed.opened.is_set()
        }
        accounts = list(positions)
        for start in range(0, len(accounts), ACCOUNTS_AT_ONCE):
            some = accounts[start : start + ACCOUNTS_AT_ONCE]
            async with self.services.database.reading() as session:
                found = await session.execute(select(Stream).where(col(Stream.account_id).in_(some)))
                streams = list(found.scalars())
            for stream in streams:
                feed = self._feeds.get(stream.account_id)
                if feed is not None:
                    feed.check(stream, positions[stream.account_id])

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            report("a task of the hub failed", error, task=task.get_name())
