"""How many streams are open, of an account and of its stream tokens, each within its limit."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from app.auth.actor import Actor

TOKENS_SHARE: Final = 9 / 10
"""Of an account's sockets, for all its stream tokens together: the rest is left to its backends."""

CUSTOMER_SHARE: Final = 1 / 100
"""Of an account's sockets, for the tokens that are bound to one customer."""

CUSTOMER_AT_LEAST: Final = 4

Holder = tuple[str, ...]


class StreamCounts:
    """Of one process. `limit`: of an account."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens_limit = max(1, int(limit * TOKENS_SHARE))
        self._customer_limit = min(limit, max(CUSTOMER_AT_LEAST, int(limit * CUSTOMER_SHARE)))
        self._open: Counter[Holder] = Counter()

    def is_full(self, actor: Actor) -> bool:
        """Whether the actor, or the account, has as many streams as it may have."""
        return any(self._open[holder] >= limit for holder, limit in self._holders(actor))

    def claim(self, actor: Actor) -> None:
        """One more stream of this actor."""
        for holder, _limit in self._holders(actor):
            self._open[holder] += 1

    def release(self, actor: Actor) -> None:
        """One stream less of this actor."""
        for holder, _limit in self._holders(actor):
            self._open[holder] -= 1
            if not self._open[holder]:
                del self._open[holder]

    def _holders(self, actor: Actor) -> Iterator[tuple[Holder, int]]:
        """The actor and all that it belongs to, each with its limit."""
        yield (actor.account_id,), self._limit
        if actor.is_restricted:
            yield (actor.account_id, "tokens"), self._tokens_limit
        if actor.customer_id is not None:
            yield (actor.account_id, "customer", actor.customer_id), self._customer_limit
