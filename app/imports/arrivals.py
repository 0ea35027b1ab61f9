"""Uploads that a process is receiving: their number and their bytes are bounded for each account."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core.errors import ErrorCode, Refusal
from app.imports.actions import MOST_WAITING, MOST_WAITING_BYTES


class Arrivals:
    """Counts uploads of accounts; what is known of an account goes with its last one."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def of(self, account_id: str) -> Iterator[Callable[[int], None]]:
        """Counts an upload while it arrives; gives the function that adds bytes of it.

        Raises LIMIT_REACHED, as that function does, where as much of the account arrives as may.
        """
        if self._files[account_id] >= MOST_WAITING:
            raise _too_many()
        self._files[account_id] += 1
        size = 0

        def add(count: int) -> None:
            nonlocal size
            if self._bytes[account_id] + count > MOST_WAITING_BYTES:
                raise _too_many()
            size += count
            self._bytes[account_id] += count

        try:
            yield add
        finally:
            self._files[account_id] -= 1
            self._bytes[account_id] -= size
            if not self._files[account_id]:
                del self._files[account_id], self._bytes[account_id]


def _too_many() -> Refusal:
    return Refusal(
        ErrorCode.LIMIT_REACHED,
        "Too many files of this account are arriving: wait until one of its uploads has ended.",
    )
