"""A subscription reads the log up to its group's place, and is then given everything that the group gets."""

import asyncio
import enum
import time
from typing import Any, Protocol

from app.core.errors import ApiError
from app.graphql.failures import internal_error
from app.live.failed_events import EventFailed, Retry
from app.live.log_head import LogHead
from app.live.payload import Batch, Page
from app.live.runtime import Runtime
from app.live.sink import DirectWriter, Sink


class Stage(enum.Enum):
    """The source of a subscription's events."""

    CATCHING_UP = enum.auto()
    LIVE = enum.auto()
    # Live as well, but it has read further in the log than its group has got.
    AHEAD = enum.auto()
    ENDED = enum.auto()


class JoinedGroup(Protocol):
    """The group of a subscription, as the subscription uses it; see `Group`."""

    runtime: Runtime
    head: LogHead
    delivered_at: float

    @property
    def done(self) -> int: ...
    def join(self, subscription: "Subscription") -> bool: ...
    def pause(self, subscription: "Subscription") -> None: ...
    def leave(self, subscription: "Subscription") -> None: ...
    def update_writer(self, subscription: "Subscription") -> None: ...
    def progress_cursor(self, sequence: int) -> str: ...
    def note_failure(self, failure: EventFailed) -> Retry: ...
    async def read(self, subscription: "Subscription") -> Page: ...


class Subscription:
    """Ends with `end()`, or by itself with errors to its sink."""

    __slots__ = ("_task", "group", "position", "requested_at", "retry", "sent_at", "sink", "stage", "writer")

    def __init__(self, group: JoinedGroup, position: int, sink: Sink, requested_at: float) -> None:
        self.group = group
        # Every event through this sequence was sent or is not for it; while it is live, the group knows better.
        self.position = position
        self.sink = sink
        # In monotonic time: it is never shown anything that was read before.
        self.requested_at = requested_at
        self.sent_at = requested_at
        self.stage = Stage.CATCHING_UP
        # Set while an event of the log, or the log itself, fails.
        self.retry: Retry | None = None
        # The sink's direct writer that the group uses, while it is live.
        self.writer: DirectWriter | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def reached(self) -> int:
        """The sequence through which it has been given everything."""
        if self.stage is Stage.LIVE:
            return self.group.done
        if self.stage is Stage.AHEAD:
            return max(self.position, self.group.done)
        return self.position

    @property
    def cursor(self) -> str:
        """The cursor through which it has been given everything."""
        return self.group.progress_cursor(self.reached)

    @property
    def last_sent_at(self) -> float:
        """The monotonic time of its last payload, or of its beginning."""
        if self.stage is Stage.LIVE:
            return max(self.sent_at, self.group.delivered_at)
        return self.sent_at

    def start(self) -> None:
        """Go on from its position: live at once where nothing was missed, else through the log."""
        if self.stage is Stage.ENDED or (self.sink.has_room and self.group.join(self)):
            return
        self.stage = Stage.CATCHING_UP
        self.group.runtime.stats.catch_ups += 1
        self._task = self.group.runtime.spawn(self._catch_up(), "catch up")

    def end(self) -> None:
        """Stop at once and send nothing more."""
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self.group.leave(self)

    def fail(self, error: ApiError) -> None:
        """End with an error of the consumer's."""
        self._end_with([{"message": error.message, "extensions": error.extensions}])

    def fail_internally(self, fault: Exception) -> None:
        """End with a fault of ours."""
        self._end_with([internal_error(fault)])

    def update_writer(self) -> None:
        """The sink's direct writer has changed."""
        if self.stage is Stage.LIVE:
            self.group.update_writer(self)

    def deliver(self, batch: Batch) -> None:
        """Hand over live payloads; a consumer that is behind goes on through the log."""
        try:
            keeps_up = self.sink.push(batch)
        except Exception as fault:
            self.fail_internally(fault)
            return
        if not keeps_up and self.stage is Stage.LIVE:
            self.fall_back(batch.sequence)

    def fall_back(self, position: int) -> None:
        """Leave the live subscriptions after this sequence and go on through the log."""
        self.group.pause(self)
        self.position = position
        self.sent_at = time.monotonic()
        self.stage = Stage.CATCHING_UP
        self.start()

    def _end_with(self, errors: list[dict[str, Any]]) -> None:
        if self.stage is not Stage.ENDED:
            self.end()
            self.sink.error(errors)

    async def _catch_up(self) -> None:
        while self.stage is Stage.CATCHING_UP:
            try:
                if self.sink.has_room and self.group.join(self):
                    return
                await self._send_page()
                self.retry = None
            except ApiError as error:
                self.fail(error)
            except Exception as error:
                await self._wait_for_retry(EventFailed.of(error))

    async def _wait_for_retry(self, failure: EventFailed) -> None:
        """Wait with the position before the event, or end once its attempts are exhausted."""
        retry = self.retry = self.group.note_failure(failure)
        if retry.is_exhausted:
            self._end_with(list(retry.errors))
        else:
            await asyncio.sleep(retry.due_at - time.monotonic())

    async def _send_page(self) -> None:
        """Send the next page of the log; at its end, wait until the consumer has taken everything."""
        if self.position >= self.group.head.sequence:
            await self.sink.wait_for_room()
            return
        page = await self.group.read(self)
        for batch in page.batches:
            if batch.sequence > self.position:
                await self.sink.wait_for_room()
                missing = batch.after(self.position)
                self.sink.push(missing)
                self.position, self.sent_at = batch.sequence, time.monotonic()
                self.group.runtime.stats.deliveries += len(missing)
        self.position = max(self.position, page.through)
        # A page that was kept needs no await before this one, and other tasks must have their turn.
        await asyncio.sleep(0)
