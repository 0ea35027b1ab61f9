"""Networks of clients, by which limits count."""

import ipaddress
from functools import lru_cache
from typing import Final

from starlette.requests import HTTPConnection

LONGEST: Final = 64
"""Characters of an address that count; a proxy may forward any text."""
NETWORKS_KEPT, NETWORK_WEIGHT = 4096, 500


def client_network(connection: HTTPConnection) -> str:
    """The network of the client that a trusted proxy forwards, or of the peer."""
    return network_of(connection.client.host if connection.client else "")


def network_of(host: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address, as providers give each customer at least a /64."""
    # Cut before it is cached: a proxy may forward anything.
    return _network_of(host[:LONGEST])


@lru_cache(NETWORKS_KEPT)
def _network_of(host: str) -> str:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
