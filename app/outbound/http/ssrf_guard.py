"""The guard against server-side request forgery: which addresses a webhook may reach.

Three checks use the same rule, `is_allowed`: of the URL when it is saved, of the name when it is resolved, and of the
address just before it is connected to (pool.py). The last one alone would do; the first two give earlier and better
answers. The rules are tables of our own and not `ipaddress.is_global`, which changes between Python versions.
"""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, quote, urlsplit

from yarl import URL

from app.core.lru import memoized

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]
Lookup = Callable[[str], Sequence[str]]
"""A blocking name lookup: all addresses of a host as text. Raises OSError."""

URL_CHARACTERS = 2048
URLS_KEPT = 4_000_000
"""Bytes of URLs that are remembered, and of each beside its text, as measured."""
URL_WEIGHT = 1000
CONCURRENT_LOOKUPS = 128

_REFUSED_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; some clouds keep their metadata here
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent: a public number, answered only from inside
        "169.254.0.0/16",  # link-local, the usual metadata address included
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast included
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, withdrawn: carries any IPv4 address
        "3ffe::/16",  # 6bone, returned
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_LOOPBACKS: Networks = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})

_HOST_NAME = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_PLACE = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]*)?", re.ASCII)
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_TARGET_CHARACTERS = "%/:@!$&'()*+,;=~-._?[]"


class UrlRefused(ValueError):
    """No webhook is sent to this URL; the message is a sentence for the user."""


class AddressRefused(UrlRefused):
    """The URL is well formed but leads to an address that is not public."""


def check_url(url: str, allow_networks: Networks = ()) -> None:
    """Refuse a URL when it is saved: its form, and its host if that is an address or a local name.

    A name may change its addresses, so it is resolved at each connection and not here. Raises UrlRefused.
    """
    host = parse_url(url).raw_host or ""
    check_host(host, allow_networks)
    if _is_local_name(host) and not any(_is_loopback(network) for network in allow_networks):
        raise AddressRefused(_refusal(host))


def check_host(host: str, allow_networks: Networks) -> None:
    """Refuse a host (as in `parse_url(url).raw_host`) that is an address and not allowed. Names pass."""
    address = _address(host)
    if address is not None and not is_allowed(address, allow_networks):
        raise AddressRefused(_refusal(str(address)))


def is_allowed(address: str | Address, allow_networks: Networks = ()) -> bool:
    """Whether a connection may go to this address: public, or in one of the operator's networks.

    An IPv4-mapped IPv6 address is judged, and allowed, as the IPv4 address that the system connects to.
    A NAT64 address is public if the IPv4 address inside is; the other embeddings (6to4, Teredo,
    IPv4-compatible) are refused whatever they carry. Text that is no address is refused.
    """
    if isinstance(address, str):
        parsed = _address(address.partition("%")[0])
        if parsed is None:
            return False
        address = parsed
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in allow_networks) or _is_public(address)


@memoized(URLS_KEPT, URL_WEIGHT)
def parse_url(url: str) -> URL:
    """The URL as it will be requested: the host in ASCII and lower case, path and query as given.

    Only characters that no request line can carry are percent-encoded. A URL is parsed by this function when it is
    saved and when it is sent to, so that there is no second reading of it. Raises UrlRefused unless it is http(s) with
    a plain host and at most a port, path and query.
    """
    if len(url) > URL_CHARACTERS:
        raise UrlRefused(f"A webhook URL has at most {URL_CHARACTERS} characters.")
    if any(character == "\\" or character.isspace() or not character.isprintable() for character in url):
        raise UrlRefused("A webhook URL has no spaces, control characters or backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("This is not a valid URL; write it as https://host/path.") from None
    _check_parts(url, parts, port)
    host = _url_host(parts)
    target = quote(parts.path or "/", safe=_TARGET_CHARACTERS)
    if parts.query:
        target += "?" + quote(parts.query, safe=_TARGET_CHARACTERS)
    authority = host if port is None else f"{host}:{port}"
    return URL(f"{parts.scheme}://{authority}{target}", encoded=True)


def ascii_host(host: str) -> str:
    """A host name in its ASCII form (IDNA). Raises UrlRefused."""
    try:
        encoded = (URL.build(scheme="http", host=host).raw_host or "").lower()
    except ValueError:
        encoded = ""
    if not _HOST_NAME.fullmatch(encoded):
        raise UrlRefused(f"“{host}” is not a valid host name.")
    return encoded


class GuardedResolver:
    """Resolves names to addresses that may be connected to.

    A name with one refused address is refused: no honest public receiver has a private address beside its public one. A
    name with loopback addresses only (localhost has two) keeps the ones that the operator allows.
    """

    def __init__(self, allow_networks: Networks = (), lookup: Lookup | None = None) -> None:
        self._allow = tuple(allow_networks)
        self._lookup = lookup or system_lookup
        self._slots = asyncio.Semaphore(CONCURRENT_LOOKUPS)

    async def resolve(self, host: str) -> list[str]:
        """All addresses of the name. Raises OSError if there is none, AddressRefused if one is not allowed."""
        found = [ip_address(text.partition("%")[0]) for text in await self._run(host)]
        if not found:
            raise OSError(f"{host} has no address")
        kept = [address for address in found if is_allowed(address, self._allow)]
        if not kept or (len(kept) < len(found) and not all(map(_is_loopback, found))):
            # The message leaves the addresses out: they may come from a name server inside the operator's network.
            raise AddressRefused(_refusal(host))
        return [str(address) for address in kept]

    async def _run(self, host: str) -> Sequence[str]:
        """The lookup in a thread of its own, of which there are at most CONCURRENT_LOOKUPS.

        The loop's executor has few threads, and a handful of names on slow name servers would hold up all others. The
        threads are daemons, so that a lookup that hangs does not hold up the end of the process.
        """
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(addresses: Sequence[str], failure: OSError | None) -> None:
            self._slots.release()
            if answer.done():
                return
            if failure is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(failure)

        def work() -> None:
            try:
                report = partial(settle, self._lookup(host), None)
            except OSError as failure:
                report = partial(settle, (), failure)
            except Exception as failure:
                report = partial(settle, (), OSError(f"{host}: {failure}"))
            with suppress(RuntimeError):  # the loop was closed meanwhile: nothing waits any more
                loop.call_soon_threadsafe(report)

        try:
            threading.Thread(target=work, name=f"lookup {host}", daemon=True).start()
        except RuntimeError as failure:
            settle((), OSError(f"no thread for a lookup: {failure}"))
        return await answer


def system_lookup(host: str) -> Sequence[str]:
    """The system's own resolution, /etc/hosts included."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _check_parts(url: str, parts: SplitResult, port: int | None) -> None:
    if parts.scheme not in ("http", "https"):
        raise UrlRefused("A webhook URL starts with https:// or http://.")
    if "@" in parts.netloc:
        raise UrlRefused(
            "A webhook URL holds no user name or password; use a custom header or the signature."
        )
    if not parts.hostname:
        raise UrlRefused("A webhook URL names a host, as in https://host/path.")
    if not _PLACE.fullmatch(parts.netloc) or port == 0:
        raise UrlRefused("A webhook URL names a host and, if any, a port from 1 to 65535.")
    if "#" in url:
        raise UrlRefused("A webhook URL has no fragment; remove everything from # on.")


def _url_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        try:
            return f"[{IPv6Address(host)}]"
        except ValueError:
            raise UrlRefused(f"“{host}” is not a valid IPv6 address.") from None
    name = ascii_host(host)
    last_label = name.rstrip(".").rpartition(".")[2]
    if _NUMBER_LABEL.fullmatch(last_label) and _address(name) is None:
        # Systems read 127.1, 0x7f000001, 017700000001 and 2130706433 as addresses; no name ends in a number.
        raise UrlRefused(
            f"“{host}” is not an IPv4 address in its usual form: four decimal numbers, as in 192.0.2.1."
        )
    return name


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_IPV6 and not any(address in network for network in _REFUSED_IPV6)


def _is_local_name(host: str) -> bool:
    name = host.rstrip(".")
    return name in _LOCAL_NAMES or name.endswith(".localhost")


def _is_loopback(one: Address | IPv4Network | IPv6Network) -> bool:
    """Whether an address is a loopback one, or a network holds one."""
    network = ip_network(one)
    return any(_overlap(network, loopback) for loopback in _LOOPBACKS)


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _refusal(host: str) -> str:
    return (
        f"{host} is not a public address or leads to one that is not. Webhooks go to public addresses only, "
        "unless the operator lists their network in VOLTWIRE_WEBHOOK_ALLOW_NETWORKS."
    )
