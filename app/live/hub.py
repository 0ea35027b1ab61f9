"""The live hub: one per process, between committed events and subscriptions.

Each account with subscriptions here has a feed. It receives new events directly from the commits of this process and
by the doorbell from others, and a poll of all streams every second covers a doorbell that is lost.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

from app.auth.actor import Actor, Scope
from app.core.errors import ApiError
from app.core.outages import report
from app.events import cursors
from app.events.doorbell import Doorbell
from app.events.log import Appended
from app.events.models import StreamBounds
from app.events.stream_bounds import read_all_bounds
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.prepared_operation import PreparedOperation
from app.live.account_feed import AccountFeed
from app.live.group import Group
from app.live.runtime import Runtime
from app.live.sink import Sink
from app.live.subscription import Subscription
from app.live.subscription_request import shared_request

POLL_INTERVAL: Final = 1.0
# A poll without an answer after this is given up: the next one goes over another connection.
POLL_TIMEOUT: Final = 5.0


class Hub:
    """`async with Hub(services, engine, doorbell) as hub`; the doorbell must be open.

    Tests poll more often, to see the poll alone, or not at all, to see the doorbell alone.
    """

    def __init__(
        self,
        services: Services,
        engine: Engine,
        doorbell: Doorbell,
        *,
        poll_interval: float = POLL_INTERVAL,
        poll_timeout: float = POLL_TIMEOUT,
    ) -> None:
        self.runtime = Runtime(services, engine, doorbell)
        self.stats = self.runtime.stats
        self._poll_interval, self._poll_timeout = poll_interval, poll_timeout
        self._poll_now = asyncio.Event()
        self._feeds: dict[str, AccountFeed] = {}

    async def __aenter__(self) -> Self:
        self.runtime.spawn(self._keep_polling(), "hub")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all subscriptions, without a word to their consumers."""
        for group in list(self._groups()):
            for subscription in list(group.members):
                subscription.end()
        await self.runtime.cancel_tasks()

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
        requested_at = time.monotonic()
        try:
            actor.require(Scope.READ)
            request, cursor = shared_request(self.runtime.engine, prepared, variables)
            feed = self._feed(actor.account_id)
            try:
                await feed.opened.wait()
                stream = await feed.latest()
                start = self._start(stream, cursor if after is None else after)
                feed.note_last(stream.last_sequence)
                group = feed.group(actor, request)
            except BaseException:
                self._release(feed)
                raise
        except ApiError as error:
            raise RequestErrors.of(error) from None
        subscription = Subscription(group, start, sink, requested_at)
        group.members.add(subscription)
        subscription.start()
        return subscription

    def committed(self, account_id: str, events: Sequence[Appended]) -> None:
        """This process has just committed these events, all of one account."""
        feed = self._feeds.get(account_id)
        if feed is not None:
            feed.take(events)

    def poll_soon(self) -> None:
        """Poll the streams without waiting for the next second."""
        self._poll_now.set()

    def _feed(self, account_id: str) -> AccountFeed:
        feed = self._feeds.get(account_id)
        if feed is None:
            feed = AccountFeed(self.runtime, account_id, poll_soon=self.poll_soon, on_left=self._release)
            self._feeds[account_id] = feed
        feed.users += 1
        return feed

    def _release(self, feed: AccountFeed) -> None:
        """The feed has one subscription less."""
        feed.users -= 1
        if feed.users == 0 and self._feeds.get(feed.account_id) is feed:
            del self._feeds[feed.account_id]
            feed.close()

    def _start(self, stream: StreamBounds, after: str | None) -> int:
        if after is None:
            return stream.last_sequence
        return cursors.decode(self.runtime.services.keyring, stream, after)

    def _groups(self) -> Iterator[Group]:
        for feed in self._feeds.values():
            yield from feed.groups

    async def _keep_polling(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._poll_interval):
                    await self._poll_now.wait()
            except TimeoutError:
                pass
            self._poll_now.clear()
            self.runtime.recent.evict_expired(time.monotonic())
            try:
                async with asyncio.timeout(self._poll_timeout):
                    await self._poll()
            except Exception as error:
                report("looking at the streams failed, it will be tried again", error)

    async def _poll(self) -> None:
        """Compare every feed's position with its stream."""
        positions = {
            account_id: feed.head.sequence for account_id, feed in self._feeds.items() if feed.opened.is_set()
        }
        for stream in await read_all_bounds(self.runtime.services.database, list(positions)):
            feed = self._feeds.get(stream.account_id)
            if feed is not None:
                feed.compare(stream, positions[stream.account_id])
