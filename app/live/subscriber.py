"""One subscription: it reads the log to the place where its group is, and from then on is given what the group gets."""

import asyncio
import enum
from typing import TYPE_CHECKING, Any

from app.core.errors import ApiError
from app.graphql.failures import internal_error
from app.live.failed_events import Faulty, Waiting
from app.live.payload import Batch, Line, Sink

if TYPE_CHECKING:
    from app.live.group import Group


class Stage(enum.Enum):
    """Where a subscription gets its events from."""

    CATCHING_UP = enum.auto()
    LIVE = enum.auto()
    # Live as well, but it has read further in the log than its group has got.
    AHEAD = enum.auto()
    ENDED = enum.auto()


class Subscription:
    """Ends with `end()`, or by itself with errors to its sink."""

    __slots__ = ("_task", "asked_at", "group", "line", "position", "sent_at", "sink", "stage", "waiting")

    def __init__(self, group: "Group", position: int, sink: Sink, asked_at: float) -> None:
        self.group = group
        # All through this sequence was sent or is not for it; while it is live, the group knows better.
        self.position = position
        self.sink = sink
        # In loop time: it is never shown what was read before.
        self.asked_at = asked_at
        self.sent_at = asked_at
        self.stage = Stage.CATCHING_UP
        # The faulty event that it has met in the log, and the log itself while that cannot be read.
        self.waiting: Waiting | None = None
        # As the group has it, while it is live.
        self.line: Line | None = None
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
    def last_sent_at(self) -> float:
        """When it was last given a payload, or began, in loop time."""
        if self.stage is Stage.LIVE:
            return max(self.sent_at, self.group.delivered_at)
        return self.sent_at

    def start(self) -> None:
        """Go on from its position: live at once where nothing was missed, else through the log."""
        if self.stage is Stage.ENDED or (self.sink.has_room and self.group.join(self)):
            return
        self.stage = Stage.CATCHING_UP
        self.group.hub.stats.catch_ups += 1
        self._task = self.group.hub.spawn(self._catch_up(), "catch up")

    def end(self) -> None:
        """Stop at once; nothing is sent any more."""
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self.group.leave(self)

    def fail(self, error: ApiError) -> None:
        """End with an error that the consumer is told."""
        self._fail([{"message": error.message, "extensions": error.extensions}])

    def rewire(self) -> None:
        """The sink's line is another."""
        if self.stage is Stage.LIVE:
            self.group.live.rewire(self)

    def fault(self, fault: Exception) -> None:
        """End for a reason that is ours."""
        self._fail([internal_error(fault)])

    def give(self, batch: Batch) -> None:
        """Hand over live payloads; a consumer that is behind goes on through the log."""
        try:
            keeps_up = self.sink.push(batch)
        except Exception as fault:
            self.fault(fault)
            return
        if not keeps_up and self.stage is Stage.LIVE:
            self.fall_back(batch.sequence)

    def fall_back(self, position: int) -> None:
        """Leave the live group after this sequence."""
        self.group.pause(self)
        self.position = position
        self.sent_at = self.group.hub.now()
        self.stage = Stage.CATCHING_UP
        self.start()

    def _fail(self, errors: list[dict[str, Any]]) -> None:
        if self.stage is not Stage.ENDED:
            self.end()
            self.sink.error(errors)

    async def _catch_up(self) -> None:
        while self.stage is Stage.CATCHING_UP:
            try:
                if self.sink.has_room and self.group.join(self):
                    return
                await self._step()
                self.waiting = None
            except ApiError as error:
                self.fail(error)
            except Exception as error:
                await self._wait(Faulty.of(error))

    async def _wait(self, fault: Faulty) -> None:
        """Wait before the next try, with the position before the event; end where there is no hope."""
        waiting = self.waiting = self.group.failed(fault)
        if waiting.is_hopeless:
            self._fail(list(waiting.errors))
        else:
            await asyncio.sleep(waiting.retry_at - self.group.hub.now())

    async def _step(self) -> None:
        """Send the next page, or wait until the consumer has taken what was sent."""
        if self.position >= self.group.feed.position:
            await self.sink.room()
            return
        page = await self.group.read(self)
        for payload in page.payloads:
            if payload.sequence > self.position:
                await self.sink.send(payload)
                self.position, self.sent_at = payload.sequence, self.group.hub.now()
                self.group.hub.stats.deliveries += 1
        self.position = max(self.position, page.through)
        # Where the page was at hand nothing has waited yet, and others want to go on as well.
        await asyncio.sleep(0)
