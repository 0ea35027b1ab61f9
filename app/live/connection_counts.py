"""Limits the open connections of an account and of its stream tokens."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from app.auth.actor import Actor

SHARE_OF_TOKENS: Final = 9 / 10
"""Of an account's connections, for all its stream tokens together: the rest is left to its backends."""

SHARE_OF_CUSTOMER: Final = 1 / 100
"""Of an account's connections, for the tokens that are bound to one customer."""

MIN_OF_CUSTOMER: Final = 4

Holder = tuple[str, ...]


class ConnectionCounts:
    """Counts the connections of a process. `limit`: connections of an account."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens_limit = max(1, int(limit * SHARE_OF_TOKENS))
        self._customer_limit = min(limit, max(MIN_OF_CUSTOMER, int(limit * SHARE_OF_CUSTOMER)))
        self._open: Counter[Holder] = Counter()

    def is_full(self, actor: Actor) -> bool:
        """Whether the actor or its account is at its limit."""
        return any(self._open[holder] >= limit for holder, limit in self._holders(actor))

    def claim(self, actor: Actor) -> None:
        """Count one connection of the actor more."""
        for holder, _limit in self._holders(actor):
            self._open[holder] += 1

    def release(self, actor: Actor) -> None:
        """Count one connection of the actor less."""
        for holder, _limit in self._holders(actor):
            self._open[holder] -= 1
            if not self._open[holder]:
                del self._open[holder]

    def _holders(self, actor: Actor) -> Iterator[tuple[Holder, int]]:
        """Everything whose connections the actor's count among, each with its limit."""
        yield (actor.account_id,), self._limit
        if actor.is_restricted:
            yield (actor.account_id, "tokens"), self._tokens_limit
        if actor.customer_id is not None:
            yield (actor.account_id, "customer", actor.customer_id), self._customer_limit
