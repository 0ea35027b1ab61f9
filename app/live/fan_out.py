"""The live subscriptions of a group, and how a batch gets to all of them.

Most keep up, and what they are sent is the same bytes: those are written straight to their transports, by their sinks'
lines. The others are given the batch one by one.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from app.live.payload import Batch, Write
from app.live.subscriber import Stage, Subscription

# Sockets served before others may run.
PUSHES_AT_ONCE: Final = 500


class Lines:
    """Subscriptions whose sinks are written to alike."""

    __slots__ = ("encode", "writes")

    def __init__(self, encode: Callable[[Batch], bytes]) -> None:
        self.encode = encode
        self.writes: dict[Subscription, Write] = {}


class Receivers:
    """A set of subscriptions that are live."""

    def __init__(self) -> None:
        self._all: dict[Subscription, None] = {}
        # Each of them again: those with a line, by its key, and those without.
        self._lines: dict[str, Lines] = {}
        self._unwired: dict[Subscription, None] = {}
        # Whether one of them has lost its line or gone since a batch was begun.
        self._rewired = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._all)

    def add(self, subscription: Subscription) -> None:
        subscription.stage = Stage.LIVE
        self._all[subscription] = None
        self._wire(subscription)

    def discard(self, subscription: Subscription) -> None:
        if subscription in self._all:
            del self._all[subscription]
            self._unwire(subscription)

    def rewire(self, subscription: Subscription) -> None:
        """The sink of one of them has another line, or none any more."""
        self._unwire(subscription)
        self._wire(subscription)

    async def give(self, batch: Batch) -> None:
        """Hand a batch to all that are here now; whoever comes meanwhile does not get it."""
        self._rewired = False
        wired = [(lines, list(lines.writes.items())) for lines in self._lines.values()]
        unwired = list(self._unwired)
        served = 0
        for lines, members in wired:
            frames = lines.encode(batch)
            for start in range(0, len(members), PUSHES_AT_ONCE):
                if served >= PUSHES_AT_ONCE:
                    await asyncio.sleep(0)
                    served = 0
                some = members[start : start + PUSHES_AT_ONCE]
                served += len(some)
                if self._rewired:
                    # Whoever has lost its line is given the batch as those without one.
                    unwired += [one for one, _ in some if one not in lines.writes]
                    some = [one for one in some if one[0] in lines.writes]
                for subscription, write in some:
                    try:
                        write(frames)
                    except Exception as fault:
                        subscription.fault(fault)
        for at, subscription in enumerate(unwired, served):
            if at and not at % PUSHES_AT_ONCE:
                await asyncio.sleep(0)
            # Whoever was pushed aside while others ran is not there any more.
            if subscription.stage is Stage.LIVE:
                subscription.give(batch)

    def _wire(self, subscription: Subscription) -> None:
        line = subscription.line = subscription.sink.line
        if line is None:
            self._unwired[subscription] = None
            return
        lines = self._lines.get(line.key)
        if lines is None:
            lines = self._lines[line.key] = Lines(line.encode)
        lines.writes[subscription] = line.write

    def _unwire(self, subscription: Subscription) -> None:
        self._rewired = True
        line, subscription.line = subscription.line, None
        if line is None:
            del self._unwired[subscription]
            return
        lines = self._lines[line.key]
        del lines.writes[subscription]
        if not lines.writes:
            del self._lines[line.key]
