"""Announces to other processes that an account's log has grown, with the events where they fit into a message.

A message is only a doorbell. Listeners compare its numbers with their own and read the log where events are missing, so
a message may be lost, repeated or out of order.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import orjson

from app.core import clock, failpoints
from app.db.database import Database
from app.db.scripts import InTransaction, announce
from app.events.doorbell import Doorbell
from app.events.log import Appended
from app.events.models import EventRecord

DISPATCH_CHANNEL: Final = "dispatch"
"""Carries the ids of accounts that have something to dispatch."""

LARGEST: Final = 7_500
"""Bytes that every broadcaster carries; PostgreSQL's NOTIFY is the narrowest."""
# More events than this never fit, so they are not kept for the message at all.
MOST_EVENTS: Final = 60

GATHER_SECONDS: Final = 0.02
"""Seconds after a ring for which an account rings no worker again: a worker gathers events for as long."""


@dataclass(frozen=True)
class WorkDue:
    """Announced by a transaction that made work for a worker beside events: a mail, a retry, a test event."""

    account_id: str


def work_due(transaction: InTransaction, account_id: str) -> None:
    """Wake a worker once this transaction has committed, instead of at its next turn."""
    announce(transaction, [WorkDue(account_id)])


def channel_of(account_id: str) -> str:
    """The channel of an account's events."""
    return f"events.{account_id}"


@dataclass(frozen=True)
class Growth:
    """The log has grown by these sequences; `events` are theirs, or empty where they do not fit."""

    first: int
    last: int
    events: Sequence[Appended] = ()

    def encode(self) -> str:
        """As compact JSON of at most `LARGEST` bytes."""
        numbers = {"first": self.first, "last": self.last}
        if self.events:
            whole = orjson.dumps({**numbers, "events": [_packed(event) for event in self.events]})
            if len(whole) <= LARGEST:
                return whole.decode()
        return orjson.dumps(numbers).decode()

    @classmethod
    def decode(cls, account_id: str, message: str, after: int = 0) -> "Growth":
        """The opposite of `encode`, without events that are not after this sequence. Raises ValueError otherwise."""
        try:
            content = orjson.loads(message)
            events = [packed for packed in content.get("events", ()) if packed[0] > after]
            unpacked = tuple(_unpacked(account_id, packed) for packed in events)
            return cls(content["first"], content["last"], unpacked)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError("not a message about an account's events") from error


def _packed(event: Appended) -> list[Any]:
    record = event.record
    return [
        record.sequence,
        record.id,
        record.type,
        clock.to_ms(record.occurred_at),
        record.subject_id,
        record.customer_id,
        record.data,
        event.meter_ids,
    ]


def _unpacked(account_id: str, packed: list[Any]) -> Appended:
    sequence, identifier, kind, occurred_ms, subject_id, customer_id, data, meter_ids = packed
    record = EventRecord(
        account_id=account_id,
        sequence=sequence,
        id=identifier,
        type=kind,
        occurred_at=clock.from_ms(occurred_ms),
        subject_id=subject_id,
        customer_id=customer_id,
        data=data,
    )
    return Appended(record, tuple(meter_ids))


@dataclass
class _Unpublished:
    """An account's next message: at most `MOST_EVENTS` events, else only the numbers."""

    first: int
    last: int
    events: list[Appended] = field(default_factory=list)
    only_numbers: bool = False

    def add(self, events: Sequence[Appended]) -> None:
        sequences = [event.record.sequence for event in events]
        self.first, self.last = min(self.first, *sequences), max(self.last, *sequences)
        if self.only_numbers or len(self.events) + len(events) > MOST_EVENTS:
            self.only_numbers, self.events = True, []
        else:
            self.events.extend(events)

    def growth(self) -> Growth:
        return Growth(self.first, self.last, sorted(self.events, key=lambda event: event.record.sequence))


class LocalListener(Protocol):
    """Gets this process's events at once, without the detour over the broadcaster: the hub."""

    def committed(self, account_id: str, events: Sequence[Appended]) -> None:
        """These events of one account have been committed."""


class Publisher:
    """Rings the doorbell after every commit with events: one message at a time for each account.

    Events that are committed while an account's message is on its way go into the next one. Workers are rung less often
    than listeners. Close it before the
    doorbell, so that everything is published.
    """

    def __init__(self, database: Database, doorbell: Doorbell, local: LocalListener | None = None) -> None:
        self._doorbell = doorbell
        self._local = local
        # A local listener is told directly.
        self._has_listeners = local is None or doorbell.reaches_others
        self._waiting: dict[str, _Unpublished] = {}
        # Accounts with something to publish.
        self._due: set[str] = set()
        # Accounts for which workers were rung just now, and those of them with further work.
        self._gathering: dict[str, asyncio.TimerHandle] = {}
        self._further: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        database.on_commit(self._committed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Return when all events committed so far have been published, as far as possible."""
        while self._tasks or self._further:
            for account_id in list(self._further):
                self._end_gathering(account_id)
            await asyncio.wait(list(self._tasks.values()))

    def _committed(self, items: Sequence[Any]) -> None:
        by_account: dict[str, list[Appended]] = {}
        for item in items:
            if isinstance(item, Appended):
                by_account.setdefault(item.record.account_id, []).append(item)
            elif isinstance(item, WorkDue):
                self._notify_workers(item.account_id)
        for account_id, events in by_account.items():
            # Rung first: this process's own sockets may keep it busy for a while.
            self._add(account_id, events)
            if self._local is not None:
                self._local.committed(account_id, events)

    def _add(self, account_id: str, events: list[Appended]) -> None:
        if self._has_listeners:
            sequence = events[0].record.sequence
            self._waiting.setdefault(account_id, _Unpublished(sequence, sequence)).add(events)
        self._notify_workers(account_id)

    def _notify_workers(self, account_id: str) -> None:
        self._due.add(account_id)
        if account_id not in self._tasks:
            self._tasks[account_id] = asyncio.create_task(self._publish(account_id), name="publisher")

    async def _publish(self, account_id: str) -> None:
        try:
            while account_id in self._due:
                self._due.discard(account_id)
                failpoints.reach("publish.before")
                if waiting := self._waiting.pop(account_id, None):
                    await self._doorbell.publish(channel_of(account_id), waiting.growth().encode())
                await self._ring_workers(account_id)
                failpoints.reach("publish.done")
        finally:
            del self._tasks[account_id]

    async def _ring_workers(self, account_id: str) -> None:
        """Ring at once, or when those that were rung just now have gathered what came meanwhile."""
        if account_id in self._gathering:
            self._further.add(account_id)
            return
        loop = asyncio.get_running_loop()
        self._gathering[account_id] = loop.call_later(GATHER_SECONDS, self._end_gathering, account_id)
        await self._doorbell.publish(DISPATCH_CHANNEL, account_id)

    def _end_gathering(self, account_id: str) -> None:
        self._gathering.pop(account_id).cancel()
        if account_id in self._further:
            self._further.discard(account_id)
            self._notify_workers(account_id)
