"""Limits on checks of feeds, so that no key of the API can have a source asked without end."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from app.core.errors import ErrorCode, Refusal

EVERY: Final = timedelta(seconds=10)
"""A feed is checked once in this time, on average …"""
AT_ONCE: Final = 6
"""… and so often at once after a rest."""
OF_ACCOUNT: Final = 4
"""Checks of one account that a process makes at the same time."""


class Checks:
    """The checks that a process makes at present, by account."""

    def __init__(self) -> None:
        self._present: Counter[str] = Counter()

    @contextmanager
    def one_of(self, account_id: str) -> Iterator[None]:
        """Counts a check while it is made. Raises LIMIT_REACHED."""
        if self._present[account_id] >= OF_ACCOUNT:
            raise Refusal(
                ErrorCode.LIMIT_REACHED,
                f"{OF_ACCOUNT} feeds of this account are being checked: wait until one of them is done.",
                "feedId",
            )
        self._present[account_id] += 1
        try:
            yield
        finally:
            self._present[account_id] -= 1
            if not self._present[account_id]:
                del self._present[account_id]
