"""Limits on checks of feeds, so that no key of the API can have a source asked without end."""

import time
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
ACCOUNT_EVERY: Final = 5.0
"""A process checks feeds of one account once in so many seconds, on average, whatever credentials they are given …"""
ACCOUNT_AT_ONCE: Final = 120
"""… and so often after a rest: each of an account's feeds once, and some again."""
_MOST_KEPT: Final = 1_000


class Checks:
    """The checks that a process makes at present, by account."""

    def __init__(self) -> None:
        self._present: Counter[str] = Counter()
        # When all that counts against an account's limit is over.
        self._until: dict[str, float] = {}

    @contextmanager
    def one_of(self, account_id: str) -> Iterator[None]:
        """Counts a check while it is made. Raises LIMIT_REACHED."""
        if self._present[account_id] >= OF_ACCOUNT:
            raise Refusal(
                ErrorCode.LIMIT_REACHED,
                f"{OF_ACCOUNT} feeds of this account are being checked: wait until one of them is done.",
                "feedId",
            )
        self._count(account_id)
        self._present[account_id] += 1
        try:
            yield
        finally:
            self._present[account_id] -= 1
            if not self._present[account_id]:
                del self._present[account_id]

    def _count(self, account_id: str) -> None:
        now = time.monotonic()
        if len(self._until) > _MOST_KEPT:
            self._until = {one: until for one, until in self._until.items() if until > now}
        until = max(self._until.get(account_id, now), now)
        if (seconds := until - now - (ACCOUNT_AT_ONCE - 1) * ACCOUNT_EVERY) > 0:
            raise Refusal(
                ErrorCode.LIMIT_REACHED,
                f"Feeds of this account were checked often just now: try again in {max(seconds, 1):.0f} seconds.",
                "feedId",
            )
        self._until[account_id] = until + ACCOUNT_EVERY
