"""Group commit on SQLite: transactions that wait for the writer together are committed together.

A COMMIT waits for the disk, and each round trip to the writer's thread costs more than most statements. So one round
trip runs the scripts of all waiting transactions, each in a savepoint, and ends with one COMMIT. A script that fails
undoes its own savepoint alone. Nothing is announced and nobody is answered before the COMMIT; if it fails, all fail.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy.engine import Dialect

from app.core import failpoints
from app.db.scripts import Act, Transaction, as_sqlalchemys, whole
from app.db.sqlite import Connection, StatementRunner

T = TypeVar("T")

MOST: Final = 64
"""Transactions in one COMMIT; other writers wait so long."""


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
    ) -> None:
        self._lock = lock
        self._connection = connection
        self._dialect = dialect
        self._notify = notify
        self._runner = StatementRunner(dialect)
        self._waiting: deque[Member] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def run(self, act: Act[T]) -> T:
        """Runs a transaction. If the caller is cancelled, it is either kept whole, or not begun at all."""
        answered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(Member(act, answered))
        if self._writing is None:
            # A task of its own: no caller's cancellation reaches the transactions of others.
            self._writing = asyncio.create_task(self._write())
        return await answered

    async def close(self) -> None:
        """Waits for the transactions that were begun."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        try:
            while self._waiting:
                async with self._lock:
                    await self._write_group()
        finally:
            self._writing = None

    async def _write_group(self) -> None:
        group: list[Member] = []
        while self._waiting and len(group) < MOST:
            member = self._waiting.popleft()
            # Callers that were cancelled meanwhile want nothing.
            if not member.answered.done():
                group.append(member)
        if not group:
            return
        try:
            await (await self._connection()).run(partial(self._commit_all, group))
        except Exception as error:
            for member in group:
                member.fail(error)
        for member in group:
            self._answer(member)

    def _answer(self, member: Member) -> None:
        if member.announced:
            self._notify(member.announced)
        if member.answered.done():
            return
        if member.error is None:
            member.answered.set_result(member.value)
        else:
            member.answered.set_exception(as_sqlalchemys(member.error, self._dialect))

    def _commit_all(self, group: list[Member], connection: sqlite3.Connection) -> None:
        try:
            self._commit(group, connection)
        except _Undone as undone:
            # The database undid the whole transaction for the sake of one member: the others are run by themselves.
            for member in group:
                if member is not undone.member:
                    member.error = None
                    self._commit_all([member], connection)

    def _commit(self, group: list[Member], connection: sqlite3.Connection) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            if len(group) == 1:
                group[0].run(connection, self._runner)
            else:
                for member in group:
                    self._run_in_savepoint(member, connection)
                if all(member.error for member in group):
                    connection.rollback()
                    return
            failpoints.reach("transaction.before_commit")
            connection.commit()
            failpoints.reach("transaction.committed")
        except _Undone:
            raise
        except BaseException as error:
            connection.rollback()
            for member in group:
                # A member that failed before has told why.
                member.fail(member.error or error)

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


class _Undone(Exception):
    """A member's error has undone the whole transaction."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.member = member
