"""Rate limits of accounts, of their stream tokens, and of addresses without a credential.

Each process counts for itself: a deployment of three processes allows three times the rate.
"""

import time
from collections.abc import Callable
from typing import Final

from starlette.requests import HTTPConnection

from app.auth.actor import Actor
from app.auth.authenticate import Authenticator, Credential
from app.auth.credentials import credential_from_headers
from app.core.errors import RateLimited, Unauthenticated
from app.graphql.http.addresses import client_network
from app.graphql.http.rate_limiter import RateLimiter, retry_after

TOKENS_SHARE: Final = 1 / 2
"""The share of an account's rate for all its stream tokens together; the rest is left to its backends."""

CUSTOMER_SHARE: Final = 1 / 5
"""The share of an account's rate for the tokens that are bound to one customer."""

STRANGERS_SHARE: Final = 1 / 5
"""The share of an account's rate for an address: its requests without a credential or with a wrong one."""

ADDRESSES_KEPT: Final = 20_000
"""Buckets of addresses at most. The least recently used one is dropped, and begins anew."""


class TooManyRequests(RateLimited):
    """`retry_after` is the value of the header."""

    def __init__(self, wait: float) -> None:
        self.retry_after = retry_after(wait)
        super().__init__(f"Too many requests; try again in {self.retry_after} s.")


class Rates:
    """The rate limits of one process; `rate` is an account's requests a second.

    An address may send `strangers_at_once` requests at once, by default as many as in a second.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        strangers_at_once: float | None = None,
    ) -> None:
        self._accounts = RateLimiter(rate, clock=clock)
        self._tokens = RateLimiter(rate * TOKENS_SHARE, clock=clock)
        self._customers = RateLimiter(rate * CUSTOMER_SHARE, clock=clock)
        self._addresses = RateLimiter(rate * STRANGERS_SHARE, ADDRESSES_KEPT, clock, burst=strangers_at_once)

    def require(self, actor: Actor) -> None:
        """Counts a request of this actor. Raises TooManyRequests, and then counts nothing."""
        if not actor.is_restricted:
            _require(self._accounts.take(actor.account_id))
            return
        buckets = [(self._tokens, actor.account_id), (self._accounts, actor.account_id)]
        if actor.customer_id is not None:
            buckets.insert(0, (self._customers, f"{actor.account_id} {actor.customer_id}"))
        for limiter, client in buckets:
            _require(limiter.wait(client))
        for limiter, client in buckets:
            limiter.take(client)

    def require_stranger(self, client: HTTPConnection) -> None:
        """Counts a request of an address without a valid credential. Raises TooManyRequests."""
        _require(self._addresses.take(client_network(client)))

    def require_credential(self, client: HTTPConnection, advice: str) -> str:
        """The credential in the headers of a request; one without counts for its address.

        Raises Unauthenticated with the advice, or TooManyRequests.
        """
        try:
            credential = credential_from_headers(client.headers)
            if credential is None:
                raise Unauthenticated(advice)
        except Unauthenticated:
            self.require_stranger(client)
            raise
        return credential

    async def authenticated(
        self, authenticator: Authenticator, credential: str, client: HTTPConnection
    ) -> Credential:
        """The credential, checked. Raises Unauthenticated, or TooManyRequests for an address that sent many wrong ones.

        The address's bucket comes before the database. Keys that this process has accepted before, and signed tokens,
        need no read and so pass, whatever others send from the same address. Of the callers that share one read of a
        key, the first counts until it returns; if the key is wrong, the others count then.
        """
        counted = False

        def count() -> None:
            nonlocal counted
            self.require_stranger(client)
            counted = True

        try:
            accepted = await authenticator.authenticate(credential, before_reading=count)
        except TooManyRequests:
            raise
        except Unauthenticated:
            if not counted:
                self.require_stranger(client)
            raise
        except BaseException:
            # Another error is no refusal, so it does not count.
            self._forgive(client, counted)
            raise
        self._forgive(client, counted)
        return accepted

    def _forgive(self, client: HTTPConnection, counted: bool) -> None:
        if counted:
            self._addresses.give_back(client_network(client))


def _require(wait: float | None) -> None:
    if wait is not None:
        raise TooManyRequests(wait)
