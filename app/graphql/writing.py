"""Mutations that this process executes now, by account: the fan-out may wait a moment for their events."""

from collections import Counter
from collections.abc import Sequence
from typing import Any


class Writing:
    """Counts mutations from their beginning to their commit, or to their end without one."""

    def __init__(self) -> None:
        self._by_account: Counter[str] = Counter()

    def begin(self, account_id: str) -> "Begun":
        self._by_account[account_id] += 1
        return Begun(self, account_id)

    def is_expected(self, account_id: str) -> bool:
        """Whether an event of this account may follow soon."""
        return account_id in self._by_account

    def note_commit(self, items: Sequence[Any]) -> None:
        """Ends those that a transaction has announced. The fan-out hears of their events after this."""
        for item in items:
            if isinstance(item, Begun):
                item.end()

    def _end(self, account_id: str) -> None:
        self._by_account[account_id] -= 1
        if not self._by_account[account_id]:
            del self._by_account[account_id]


class Begun:
    """A mutation that was begun; its transaction announces it."""

    __slots__ = ("_account_id", "_writing")

    def __init__(self, writing: Writing, account_id: str) -> None:
        self._writing: Writing | None = writing
        self._account_id = account_id

    def end(self) -> None:
        """It makes no event any more; a second call does nothing."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing._end(self._account_id)
