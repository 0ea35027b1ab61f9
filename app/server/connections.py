"""How many connections a process takes, from one address and in all, sockets among them.

Each takes a file descriptor, and a process that has none left can neither accept nor open its database. So a part of
them is never given to connections, and one address gets half of the others at most.
"""

import ipaddress
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import structlog

from app.core.settings import Network
from app.graphql.http.addresses import network_of

TOLD_EVERY: Final = 60.0
"""Seconds between two lines in the log about the same limit."""

log = structlog.get_logger(__name__)


class Full(NamedTuple):
    """Why a connection is refused."""

    status: bytes
    sentence: bytes


ADDRESS_IS_FULL: Final = Full(
    b"429 Too Many Requests", b"Too many connections from this address; close some, or wait.\n"
)
PROCESS_IS_FULL: Final = Full(b"503 Service Unavailable", b"Too many connections; try again.\n")


class Connections:
    """Counts the open connections of one process. Those from `exempt` networks, which are proxies, count in all only.

    `per_address`, `total`: how many there may be; of the total an address gets half at most.
    """

    def __init__(self, per_address: int, total: int, exempt: Sequence[Network] = ()) -> None:
        self._per_address = max(1, min(per_address, total // 2))
        self._total = total
        self._by_network: Counter[str] = Counter()
        self._open = 0
        self._told: dict[Full, float] = {}
        self._is_exempt = lru_cache(4096)(lambda host: _is_in(host, exempt))

    def __len__(self) -> int:
        return self._open

    def enter(self, host: str) -> Full | None:
        """Count one more connection from this address, or say why it cannot be taken."""
        full = self._refusal(host)
        if full is None:
            self._open += 1
            self._by_network[network_of(host)] += 1
        else:
            self._tell(full, host)
        return full

    def leave(self, host: str) -> None:
        """One connection that had entered is gone."""
        network = network_of(host)
        self._open -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def _refusal(self, host: str) -> Full | None:
        if self._open >= self._total:
            return PROCESS_IS_FULL
        if self._by_network[network_of(host)] >= self._per_address and not self._is_exempt(host):
            return ADDRESS_IS_FULL
        return None

    def _tell(self, full: Full, host: str) -> None:
        """Once in a while: a flood of connections must not become one of the log."""
        now = time.monotonic()
        if now - self._told.get(full, -TOLD_EVERY) < TOLD_EVERY:
            return
        self._told[full] = now
        if full is ADDRESS_IS_FULL:
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
