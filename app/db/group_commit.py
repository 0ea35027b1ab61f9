"""Group commit on SQLite: transactions that wait for the writer together are committed together.

A COMMIT waits for the disk, and each round trip to the writer's thread costs more than most statements. So one round
trip runs the scripts of all waiting transactions, each in a savepoint, and ends with one COMMIT. A script that fails
undoes its own savepoint alone. Nothing is announced and nobody is answered before the COMMIT; if it fails, all fail.
A script that takes long ends its group: sessions and other processes write before the next one.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Dialect

from app.core import failpoints
from app.core.outages import DatabaseAway, report
from app.db.raw_statements import Script
from app.db.scripts import Act, Transaction, as_sqlalchemys, whole
from app.db.sqlite import Connection, StatementRunner

T = TypeVar("T")

MOST, LONGEST = 64, 0.05
"""Transactions in one COMMIT, and seconds after which it takes no more of them; other writers wait so long."""

PAUSE, LONGEST_PAUSE = 0.05, 0.12
"""After a longer group other processes get this part of its time, and at most these seconds.

A process that waits for SQLite's lock asks for it each tenth of a second, and would find it taken each time.
"""


class Member:
    """A transaction of a group, and its outcome."""

    def __init__(self, act: Act[Any], answered: asyncio.Future[Any]) -> None:
        self.act = act
        self.answered = answered
        self.value: Any = None
        self.error: BaseException | None = None
        self.announced: Sequence[Any] = ()

    def run(self, connection: sqlite3.Connection, runner: StatementRunner) -> None:
        transaction = Transaction(on_sqlite=True)
        self.value = runner.run(connection, whole(self.act, transaction))
        self.announced = transaction.info.get("announced", ())

    def fail(self, error: BaseException) -> None:
        self.error, self.announced = error, ()


class Group:
    """Transactions that are committed together; those that it has no time for are `left`, and not begun."""

    def __init__(self, members: list[Member], loop: asyncio.AbstractEventLoop) -> None:
        self.members = members
        self.loop = loop
        self.left: list[Member] = []
        self.seconds = 0.0
        """The time for which it kept other writers waiting."""

    def leave_from(self, at: int) -> None:
        self.members, self.left = self.members[:at], self.members[at:]


class EarlyReading(NamedTuple):
    """The work for listeners before a COMMIT, over the announced items of its group.

    `read` makes a script that only reads, and tells whether it has read anything. Then `prepare` is called in the loop,
    while the COMMIT is under way.
    """

    read: Callable[[Sequence[Any]], Script[bool]]
    prepare: Callable[[Sequence[Any]], None]


class GroupCommit:
    """The queue of transactions for one connection, which `connection` gives while `lock` is held.

    `notify` is called in the loop, with the announced items of each transaction that was committed.
    """

    def __init__(
        self,
        lock: asyncio.Lock,
        connection: Callable[[], Awaitable[Connection]],
        dialect: Dialect,
        notify: Callable[[Sequence[Any]], None],
        early: EarlyReading,
    ) -> None:
        self._lock = lock
        self._connection = connection
        self._dialect = dialect
        self._notify = notify
        self._early = early
        self._runner = StatementRunner(dialect)
        self._waiting: deque[Member] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def run(self, act: Act[T]) -> T:
        """Runs a transaction. If the caller is cancelled, it is either kept whole, or not begun at all."""
        if self._is_closed:
            raise _closed()
        answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(Member(act, answered))
        if self._writing is None:
            # A task of its own: no caller's cancellation reaches the transactions of others.
            self._writing = asyncio.create_task(self._write())
        return await answered

    async def close(self) -> None:
        """Waits for the transactions that were begun; those that wait fail as in an outage."""
        self._is_closed = True
        self._fail_waiting()
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        try:
            while self._waiting:
                async with self._lock:
                    seconds = await self._write_group()
                if self._is_closed:
                    self._fail_waiting()
                elif self._waiting and seconds > LONGEST:
                    await asyncio.sleep(min(PAUSE * seconds, LONGEST_PAUSE))
        finally:
            self._writing = None

    def _fail_waiting(self) -> None:
        while self._waiting:
            member = self._waiting.popleft()
            member.fail(_closed())
            self._answer(member)

    async def _write_group(self) -> float:
        """Gives the seconds that the group kept other writers waiting."""
        members: list[Member] = []
        while self._waiting and len(members) < MOST:
            member = self._waiting.popleft()
            # Callers that were cancelled meanwhile want nothing.
            if not member.answered.done():
                members.append(member)
        if not members:
            return 0.0
        group = Group(members, asyncio.get_running_loop())
        try:
            await (await self._connection()).run(partial(self._commit_all, group))
        except Exception as error:
            for member in group.members:
                member.fail(error)
        self._waiting.extendleft(reversed(group.left))
        for member in group.members:
            self._answer(member)
        # After the answers: what the listeners begin may take longer than these.
        for member in group.members:
            if member.announced:
                self._notify(member.announced)
        return group.seconds

    def _answer(self, member: Member) -> None:
        if member.answered.done():
            return
        if member.error is None:
            member.answered.set_result(member.value)
        else:
            member.answered.set_exception(as_sqlalchemys(member.error, self._dialect))

    def _commit_all(self, group: Group, connection: sqlite3.Connection) -> None:
        try:
            self._commit(group, connection)
        except _Undone as undone:
            # The database undid the whole transaction for the sake of one member: the others are run by themselves.
            group.leave_from(group.members.index(undone.member) + 1)
            for member in group.members[:-1]:
                member.error = None
                alone = Group([member], group.loop)
                self._commit_all(alone, connection)
                group.seconds += alone.seconds

    def _commit(self, group: Group, connection: sqlite3.Connection) -> None:
        begun_at = time.monotonic()
        try:
            connection.execute("BEGIN IMMEDIATE")
            # It may have waited for another process.
            begun_at = time.monotonic()
            if len(group.members) == 1:
                group.members[0].run(connection, self._runner)
            else:
                for at, member in enumerate(group.members):
                    if at and time.monotonic() - begun_at > LONGEST:
                        group.leave_from(at)
                        break
                    self._run_in_savepoint(member, connection)
                if all(member.error for member in group.members):
                    connection.rollback()
                    return
            self._read_before_commit(group, connection)
            failpoints.reach("transaction.before_commit")
            connection.commit()
            failpoints.reach("transaction.committed")
        except _Undone:
            raise
        except BaseException as error:
            connection.rollback()
            for member in group.members:
                # A member that failed before has told why.
                member.fail(member.error or error)
        finally:
            group.seconds = time.monotonic() - begun_at

    def _read_before_commit(self, group: Group, connection: sqlite3.Connection) -> None:
        announced = [item for member in group.members for item in member.announced]
        if not announced:
            return
        try:
            if self._runner.run(connection, self._early.read(announced)):
                group.loop.call_soon_threadsafe(self._early.prepare, announced)
        except Exception as error:
            # SQLite undoes the whole transaction itself where memory is short, and a COMMIT would say nothing of it.
            if not connection.in_transaction:
                raise
            report("reading before a commit failed, it will be read after it", error)

    def _run_in_savepoint(self, member: Member, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT member")
        try:
            member.run(connection, self._runner)
        except BaseException as error:
            member.fail(error)
            # SQLite undoes the whole transaction itself where the disk is full or memory is short.
            if not connection.in_transaction:
                raise _Undone(member) from error
            connection.execute("ROLLBACK TO member")
        connection.execute("RELEASE member")


def _closed() -> DatabaseAway:
    return DatabaseAway("this process ends, and began no such transaction")


class _Undone(Exception):
    """A member's error has undone the whole transaction."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member = member
