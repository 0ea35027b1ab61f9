"""Hands a batch to all live subscriptions of a group.

Most consumers keep up, and most are sent the same bytes: these are written straight to their transports, by their
sinks' direct writers. The others are given the batch one by one.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from app.live.payload import Batch
from app.live.sink import Write
from app.live.subscription import Stage, Subscription

# Sockets served before other tasks have a turn.
PUSHES_PER_TURN: Final = 500


class _EqualWriters:
    """Subscriptions whose direct writers have one key."""

    __slots__ = ("_members", "encode", "writes")

    def __init__(self, encode: Callable[[Batch], bytes]) -> None:
        self.encode = encode
        self.writes: dict[Subscription, Write] = {}
        self._members: Sequence[tuple[Subscription, Write]] | None = None

    def add(self, subscription: Subscription, write: Write) -> None:
        self.writes[subscription] = write
        self._members = None

    def remove(self, subscription: Subscription) -> None:
        del self.writes[subscription]
        self._members = None

    @property
    def members(self) -> Sequence[tuple[Subscription, Write]]:
        """All of them as they are now; a later change makes another list."""
        if self._members is None:
            self._members = list(self.writes.items())
        return self._members


class FanOut:
    """A set of live subscriptions."""

    def __init__(self) -> None:
        self._all: dict[Subscription, None] = {}
        # Each of them again: those with a direct writer, by its key, and those without.
        self._direct: dict[str, _EqualWriters] = {}
        self._indirect: dict[Subscription, None] = {}
        # Whether a subscription has lost its writer, or has gone, since a batch was begun.
        self._has_changed = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._all)

    def add(self, subscription: Subscription) -> None:
        subscription.stage = Stage.LIVE
        self._all[subscription] = None
        self._place(subscription)

    def discard(self, subscription: Subscription) -> None:
        if subscription in self._all:
            del self._all[subscription]
            self._displace(subscription)

    def update_writer(self, subscription: Subscription) -> None:
        """A subscription's sink has another direct writer, or none any more."""
        self._displace(subscription)
        self._place(subscription)

    async def deliver(self, batch: Batch) -> None:
        """Hand a batch to every subscription that is live now; a later one does not get it."""
        self._has_changed = False
        direct = [(equal, equal.members) for equal in self._direct.values()]
        indirect = list(self._indirect)
        served = 0
        for equal, members in direct:
            encoded = equal.encode(batch)
            for start in range(0, len(members), PUSHES_PER_TURN):
                if served >= PUSHES_PER_TURN:
                    await asyncio.sleep(0)
                    served = 0
                some = members[start : start + PUSHES_PER_TURN]
                served += len(some)
                if self._has_changed:
                    indirect += [subscription for subscription, _ in some if subscription not in equal.writes]
                    some = [member for member in some if member[0] in equal.writes]
                for subscription, write in some:
                    try:
                        write(encoded)
                    except Exception as fault:
                        subscription.fail_internally(fault)
        for at, subscription in enumerate(indirect, served):
            if at and not at % PUSHES_PER_TURN:
                await asyncio.sleep(0)
            # It may have fallen back or ended while other tasks had their turn.
            if subscription.stage is Stage.LIVE:
                subscription.deliver(batch)

    def _place(self, subscription: Subscription) -> None:
        writer = subscription.writer = subscription.sink.direct_writer
        if writer is None:
            self._indirect[subscription] = None
            return
        equal = self._direct.get(writer.key)
        if equal is None:
            equal = self._direct[writer.key] = _EqualWriters(writer.encode)
        equal.add(subscription, writer.write)

    def _displace(self, subscription: Subscription) -> None:
        self._has_changed = True
        writer, subscription.writer = subscription.writer, None
        if writer is None:
            del self._indirect[subscription]
            return
        equal = self._direct[writer.key]
        equal.remove(subscription)
        if not equal.writes:
            del self._direct[writer.key]
