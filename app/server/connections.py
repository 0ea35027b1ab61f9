"""Limits on a process's open connections, from one address and in all, sockets among them.

Each takes a file descriptor, and a process that has none left can neither accept nor open its database. Some are
reserved, and one address gets half of the others at most.
"""

import ipaddress
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import structlog

from app.core.settings import Network
from app.graphql.http.addresses import network_of
from app.server.refusals import refusal

LOGGED_EVERY: Final = 60.0
"""Seconds between two lines in the log about the same limit."""

log = structlog.get_logger(__name__)


RETRY_LATER: Final = b"retry-after: 30\r\n"
ADDRESS_IS_FULL: Final = refusal(
    b"429 Too Many Requests",
    b"Too many connections from this address; close some, or wait.\n",
    RETRY_LATER,
)
PROCESS_IS_FULL: Final = refusal(
    b"503 Service Unavailable", b"Too many connections; try again.\n", RETRY_LATER
)


class Connections:
    """Counts the open connections of one process.

    `per_address`, `total`: the limits; an address gets half of the total at most. Connections from `exempt` networks,
    which are proxies, count towards the total only.
    """

    def __init__(self, per_address: int, total: int, exempt: Sequence[Network] = ()) -> None:
        self._per_address = max(1, min(per_address, total // 2))
        self._total = total
        self._by_network: Counter[str] = Counter()
        self._open = 0
        self._logged_at: dict[bytes, float] = {}
        self._is_exempt = lru_cache(4096)(lambda host: _is_in(host, exempt))

    def __len__(self) -> int:
        return self._open

    def enter(self, host: str) -> bytes | None:
        """Counts one more connection from this address, or gives the answer to one that exceeds a limit."""
        limit = self._limit_reached(host)
        if limit is None:
            self._open += 1
            self._by_network[network_of(host)] += 1
        else:
            self._log(limit, host)
        return limit

    def leave(self, host: str) -> None:
        """Ends the count of one connection that had entered."""
        network = network_of(host)
        self._open -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def _limit_reached(self, host: str) -> bytes | None:
        if self._open >= self._total:
            return PROCESS_IS_FULL
        if self._by_network[network_of(host)] >= self._per_address and not self._is_exempt(host):
            return ADDRESS_IS_FULL
        return None

    def _log(self, limit: bytes, host: str) -> None:
        """Logs once in a while: a flood of connections must not flood the log."""
        now = time.monotonic()
        if now - self._logged_at.get(limit, -LOGGED_EVERY) < LOGGED_EVERY:
            return
        self._logged_at[limit] = now
        if limit is ADDRESS_IS_FULL:
            log.warning(
                "refusing connections of an address that has too many; a proxy belongs in VOLTWIRE_TRUSTED_PROXIES, "
                "and VOLTWIRE_MAX_CONNECTIONS_PER_ADDRESS sets the limit",
                address=network_of(host),
                limit=self._per_address,
            )
        else:
            log.warning(
                "refusing connections: the process may open too few files (ulimit -n)", limit=self._total
            )


def _is_in(host: str, networks: Sequence[Network]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)
