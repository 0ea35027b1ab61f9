"""The guard: every spelling of every kind of address that a webhook must not reach, and the names in between."""

import asyncio
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound.http.ssrf_guard import (
    AddressRefused,
    GuardedResolver,
    Networks,
    UrlRefused,
    check_url,
    is_allowed,
    parse_url,
)

LOOPBACK: Networks = (ip_network("127.0.0.0/8"),)

REFUSED_ADDRESSES = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fdff::1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255", "100.100.100.200"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1"],
    "metadata": ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "168.63.129.16", "192.0.0.192"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmark": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.88.99.1", "4000::1", "5f00::1", "100::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:0"],
    "IPv4-compatible": ["::127.0.0.1", "::8.8.8.8"],
    "IPv4-translated": ["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8"],
    "6to4": ["2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:0808:0808::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001::1"],
    "no address": ["", "example.com", "127.1", "1.2.3", "0x7f000001"],
}
PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize(
    "address",
    [pytest.param(one, id=f"{kind} {one}") for kind, all_ in REFUSED_ADDRESSES.items() for one in all_],
)
def test_addresses_out_of_bounds(address: str) -> None:
    assert not is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses(address: str) -> None:
    assert is_allowed(address)
    assert is_allowed(address, LOOPBACK)


@pytest.mark.parametrize(
    ("address", "network", "allowed"),
    [
        ("127.0.0.1", "127.0.0.0/8", True),
        ("::ffff:127.0.0.1", "127.0.0.0/8", True),
        ("10.1.2.3", "10.1.0.0/16", True),
        ("10.2.2.3", "10.1.0.0/16", False),
        ("::1", "127.0.0.0/8", False),
        ("::1", "::1/128", True),
        ("fd00::7", "fd00::/8", True),
        ("127.0.0.1", "::/0", False),
        # Only the network of the outer address lets these through.
        ("64:ff9b::127.0.0.1", "127.0.0.0/8", False),
        ("2002:7f00:1::1", "127.0.0.0/8", False),
        ("64:ff9b::127.0.0.1", "64:ff9b::/96", True),
    ],
)
def test_the_operators_networks(address: str, network: str, allowed: bool) -> None:
    assert is_allowed(address, [ip_network(network)]) is allowed


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_its_mapped_form(address: object) -> None:
    assert is_allowed(f"::ffff:{address}") == is_allowed(str(address)) == is_allowed(f"64:ff9b::{address}")


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com/", "https://example.com/"),
        ("HTTPS://Example.COM/Hook", "https://example.com/Hook"),
        ("http://example.com:8080/hook?a=1&b=%2Fx%20y&c", "http://example.com:8080/hook?a=1&b=%2Fx%20y&c"),
        ("https://example.com/a%2Fb/../c/%7e;v=1?sig=ab%2Bcd%3D=", None),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com:443/", "https://example.com/"),
        ("https://example.com./hook", "https://example.com./hook"),
        ("https://under_score.example.com/", None),
        ("https://bücher.example/käse?q=ü", "https://xn--bcher-kva.example/k%C3%A4se?q=%C3%BC"),
        ("https://xn--bcher-kva.example/", None),
        ("https://例え.テスト/", "https://xn--r8jz45g.xn--zckzah/"),
        ('https://example.com/{id}?q="x"', "https://example.com/%7Bid%7D?q=%22x%22"),
        ("https://8.8.8.8/hook", None),
        ("https://[2606:4700:4700:0:0::1111]:8443/hook", "https://[2606:4700:4700::1111]:8443/hook"),
        ("http://redis/", None),
    ],
)
def test_urls_that_may_be_saved(url: str, requested: str | None) -> None:
    check_url(url)
    assert str(parse_url(url)) == (requested or url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "starts with https://"),
        ("example.com/hook", "starts with https://"),
        ("//example.com/hook", "starts with https://"),
        ("ftp://example.com/", "starts with https://"),
        ("file:///etc/passwd", "starts with https://"),
        ("gopher://example.com/", "starts with https://"),
        ("javascript:alert(1)", "starts with https://"),
        ("https:example.com", "names a host"),
        ("https:///hook", "names a host"),
        ("https://", "names a host"),
        ("https://:443/", "names a host"),
        ("https://user:pass@example.com/", "no user name"),
        ("https://user@example.com/", "no user name"),
        ("https://example.com@127.0.0.1/", "no user name"),
        ("https://@example.com/", "no user name"),
        ("https://example.com/#part", "no fragment"),
        ("https://example.com/#", "no fragment"),
        ("https://example.com#@127.0.0.1/", "no fragment"),
        ("https://example.com:0/", "from 1 to 65535"),
        ("https://example.com:65536/", "not a valid URL"),
        ("https://example.com:99999999999/", "not a valid URL"),
        ("https://example.com:-1/", "not a valid URL"),
        ("https://example.com:https/", "not a valid URL"),
        ("https://example.com:８０/", "1 to 65535|not a valid URL"),
        ("https://[:::1]/", "not a valid"),
        ("https://[::1]:x/", "not a valid URL"),
        ("https://example.com/a b", "no spaces"),
        (" https://example.com/", "no spaces"),
        ("https://example.com/\n", "no spaces"),
        ("https://exam\tple.com/", "no spaces"),
        ("https://example.com/\r\nX-Injected: 1", "no spaces"),
        ("https://example.com/\0", "no spaces"),
        ("https://example.com/\u2028", "no spaces"),
        ("https://example.com/\ud800", "no spaces"),
        ("https://example.com\\@127.0.0.1/", "no spaces"),
        ("https:\\\\example.com", "no spaces"),
        ("https://exa%6dple.com/", "not a valid host name"),
        ("https://exa*mple.com/", "not a valid host name"),
        ("https://exam!ple.com/", "not a valid host name"),
        ("https://a..b.com/", "not a valid host name"),
        ("https://.example.com/", "not a valid host name"),
        ("https://./", "not a valid host name"),
        (f"https://{'a' * 64}.com/", "not a valid host name"),
        (f"https://{'.'.join(['a' * 60] * 5)}/", "not a valid host name"),
        ("https://exam℀ple.com/", "not a valid"),
        ("https://[::1/", "not a valid"),
        ("https://[v1.x]/", "names a host|not a valid URL"),
        ("https://[fe80::1%25eth0]/", "names a host|not a valid URL"),
        ("https://[example.com]/", "names a host|not a valid URL"),
        ("https://[::1]evil.com/", "not a valid|names a host"),
        ("https://example.com/" + "a" * 2030, "at most 2048 characters"),
    ],
)
def test_urls_that_are_refused_for_their_form(url: str, sentence: str) -> None:
    with pytest.raises(UrlRefused, match=sentence) as caught:
        check_url(url, [ip_network("0.0.0.0/0"), ip_network("::/0")])
    assert not isinstance(caught.value, AddressRefused)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "127.0.0.01",
        "0",
        "0x",
        "4294967296",
        "256.256.256.256",
        "1.2.3.4.5",
        "10.0.0.0x1",
        "example.1",
        "example.0x1f",
    ],
)
def test_no_host_in_another_spelling_of_an_ipv4_address(host: str) -> None:
    with pytest.raises(UrlRefused, match="not an IPv4 address in its usual form"):
        check_url(f"http://{host}/", LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8000",
        "169.254.169.254",
        "100.100.100.200",
        "10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        # What a browser, or our own client, makes of these is an address as well.
        "１２７.0.0.1",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::]",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "ip6-localhost",
        "some.localhost",
        "localhost.localdomain",
    ],
)
def test_hosts_that_are_refused_for_their_address(host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(AddressRefused, match="VOLTWIRE_WEBHOOK_ALLOW_NETWORKS"):
            check_url(f"{scheme}://{host}/")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.9.9.9", "localhost:9000", "[::ffff:127.0.0.1]"])
def test_hosts_within_the_operators_networks(host: str) -> None:
    check_url(f"http://{host}/", LOOPBACK)


def test_localhost_needs_a_loopback_network() -> None:
    with pytest.raises(AddressRefused):
        check_url("http://localhost/", [ip_network("10.0.0.0/8")])
    check_url("http://localhost/", [ip_network("::1/128")])


@given(st.text())
def test_checking_takes_anything(rest: str) -> None:
    try:
        check_url("http://" + rest)
    except UrlRefused:
        return
    assert str(parse_url("http://" + rest)).isascii()


@given(st.ip_addresses(v=4))
def test_literals_are_refused_exactly_when_their_address_is(address: object) -> None:
    try:
        check_url(f"http://{address}/")
    except AddressRefused:
        assert not is_allowed(str(address))
    else:
        assert is_allowed(str(address))


async def resolved(addresses: Sequence[str], allow: Networks = ()) -> list[str]:
    return await GuardedResolver(allow, lambda host: addresses).resolve("example.com")


async def test_a_public_name_gives_all_its_addresses() -> None:
    assert await resolved(["8.8.8.8", "2606:4700:4700::1111"]) == ["8.8.8.8", "2606:4700:4700::1111"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["10.0.0.1", "8.8.8.8"],
        ["2606:4700:4700::1111", "::1"],
        ["8.8.8.8", "fe80::1%eth0"],
        ["169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
    ],
)
async def test_a_name_with_any_address_out_of_bounds_is_refused(addresses: list[str]) -> None:
    with pytest.raises(AddressRefused) as caught:
        await resolved(addresses)
    assert not any(address in str(caught.value) for address in addresses)


async def test_a_mixed_name_is_refused_although_the_operator_allows_one_of_its_addresses() -> None:
    with pytest.raises(AddressRefused):
        await resolved(["127.0.0.1", "10.0.0.1"], LOOPBACK)
    with pytest.raises(AddressRefused):
        await resolved(["127.0.0.1", "::1", "10.0.0.1"], LOOPBACK)


async def test_a_loopback_name_keeps_what_the_operator_allows() -> None:
    assert await resolved(["::1", "127.0.0.1"], LOOPBACK) == ["127.0.0.1"]
    with pytest.raises(AddressRefused):
        await resolved(["::1"], LOOPBACK)


async def test_a_name_without_an_address() -> None:
    with pytest.raises(OSError, match="no address"):
        await resolved([])

    def missing(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror):
        await GuardedResolver((), missing).resolve("example.com")

    def unencodable(host: str) -> Sequence[str]:
        raise UnicodeError("label too long")

    with pytest.raises(OSError, match="label too long"):
        await GuardedResolver((), unencodable).resolve("example.com")


async def test_the_systems_lookup_is_the_default() -> None:
    assert await GuardedResolver(LOOPBACK).resolve("localhost") == ["127.0.0.1"]


async def test_slow_lookups_hold_up_no_other_name() -> None:
    release = threading.Event()

    def lookup(host: str) -> Sequence[str]:
        if host.startswith("slow"):
            release.wait()
        return ["8.8.8.8"]

    resolver = GuardedResolver((), lookup)
    slow = [asyncio.create_task(resolver.resolve(f"slow{number}.example")) for number in range(100)]
    assert await resolver.resolve("fast.example") == ["8.8.8.8"]
    assert not any(task.done() for task in slow)
    slow[0].cancel()
    release.set()
    results = await asyncio.gather(*slow, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(one, list) for one in results[1:])
