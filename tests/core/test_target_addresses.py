"""Which addresses callbacks may not reach, in every IPv6 form of an IPv4 address."""

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import TargetRefused
from bridge.core.targets import (
    Address,
    Network,
    Target,
    TargetPolicy,
    is_loopback,
    judge_address,
    parse_target,
    special_use,
    unmapped_address,
)

ANY = TargetPolicy()


def words(text: str) -> list[str]:
    return text.split()


# Written here a second time, from IANA's registries and the contract, to check the table of the code.
REFUSED_IPV4 = words("""0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12
192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4
240.0.0.0/4 100.100.100.200/32 169.254.169.254/32""")
REFUSED_IPV6 = words("""::/128 ::1/128 ::/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64
2001::/23 2001:2::/48
2001:10::/28 2001:20::/28 2001:db8::/32 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8 fd00:ec2::254/128
4000::/3 200::/7 8000::/1""")
PUBLIC = words("""1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0
126.255.255.255 128.0.0.1 168.63.129.15
168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0
192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 203.0.114.0 223.255.255.255 2001:200::1
2001:4860:4860::8888 2003::1 2606:4700:4700::1111 2a00:1450::1 2620:4f:8000::1 3ffe::1 ::ffff:8.8.8.8
64:ff9b::8.8.8.8 2002:808:808::1 2a00:1450::5efe:8.8.8.8""")

IPV4_FORMS: dict[str, Callable[[int], IPv6Address]] = {
    "mapped": lambda bits: IPv6Address(0xFFFF << 32 | bits),
    "compatible": IPv6Address,
    "translated": lambda bits: IPv6Address(0xFFFF << 48 | bits),
    "NAT64": lambda bits: IPv6Address(0x64FF9B << 96 | bits),
    "local NAT64 /96": lambda bits: IPv6Address(0x64FF9B0001 << 80 | bits),
    "local NAT64 /48": lambda bits: IPv6Address(0x64FF9B0001 << 80 | (bits >> 16) << 64 | (bits & 0xFFFF) << 40),
    "local NAT64 /64": lambda bits: IPv6Address(0x64FF9B0001 << 80 | bits << 24),
    "6to4": lambda bits: IPv6Address(0x2002 << 112 | bits << 80 | 1),
    "Teredo client": lambda bits: IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | bits ^ 0xFFFFFFFF),
    "Teredo server": lambda bits: IPv6Address(0x20010000 << 96 | bits << 64 | 0x08080808 ^ 0xFFFFFFFF),
    "ISATAP": lambda bits: IPv6Address(0x2A0014500000 << 80 | 0x5EFE << 32 | bits),
    "ISATAP, global": lambda bits: IPv6Address(0x2A0014500000 << 80 | 0x02005EFE << 32 | bits),
}


def inside(network: Network) -> st.SearchStrategy[Address]:
    """Any address of a network, including its first and last."""
    return st.integers(0, network.num_addresses - 1).map(lambda index: network[index])


def url_of(address: Address, port: int = 80) -> str:
    return f"http://[{address}]:{port}/" if address.version == 6 else f"http://{address}:{port}/"


def refusal_of(url: str, policy: TargetPolicy = ANY) -> str:
    with pytest.raises(TargetRefused) as refused:
        parse_target(url, policy)
    return str(refused.value)


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("127.0.0.1", "is loopback"),
        ("10.0.0.1", "is private"),
        ("172.31.255.255", "is private"),
        ("192.168.1.1", "is private"),
        ("169.254.1.1", "is link-local"),
        ("169.254.169.254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("224.0.0.1", "is multicast"),
        ("255.255.255.255", "is broadcast"),
        ("240.0.0.1", "is reserved"),
        ("0.0.0.0", "is unspecified"),  # noqa: S104  it is refused, not bound
        ("192.0.2.1", "for documentation"),
        ("198.19.0.1", "for benchmarks"),
        ("::", "is unspecified"),
        ("::1", "is loopback"),
        ("fe80::1", "is link-local"),
        ("fec0::1", "is site-local"),
        ("fd12::1", "is private"),
        ("ff02::1", "is multicast"),
        ("2001:db8::1", "for documentation"),
        ("2001:2::1", "for benchmarks"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::ffff:0:7f00:1", "IPv4-translated"),
        ("::ffff:127.0.0.1", "is loopback (127.0.0.0/8)"),
        ("64:ff9b::7f00:1", "holds 127.0.0.1 (NAT64), which is loopback"),
        ("64:ff9b:1::7f00:1", "local NAT64"),
        ("2002:7f00:1::", "holds 127.0.0.1 (6to4), which is loopback"),
        ("2001:0:808:808::", "Teredo"),
        ("2a00::5efe:10.0.0.1", "holds 10.0.0.1 (ISATAP), which is private"),
        ("4000::1", "outside global unicast"),
    ],
)
def test_the_refusal_names_the_rule(address: str, rule: str) -> None:
    assert rule in refusal_of(url_of(ip_address(address)))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_accepted(text: str) -> None:
    judge_address(ip_address(text), ANY, 443, https=True)
    assert parse_target(url_of(ip_address(text)), ANY).address == ip_address(text)


@pytest.mark.parametrize("network", REFUSED_IPV4 + REFUSED_IPV6)
def test_the_first_and_last_addresses_of_refused_networks_are_refused(network: str) -> None:
    first, last = ip_network(network)[0], ip_network(network)[-1]
    for address in (first, last):
        with pytest.raises(TargetRefused):
            judge_address(address, ANY, 80, https=False)


@given(st.sampled_from(REFUSED_IPV4 + REFUSED_IPV6).flatmap(lambda text: inside(ip_network(text))))
def test_every_address_of_a_refused_network_is_refused(address: Address) -> None:
    refusal_of(url_of(address))


@pytest.mark.parametrize("form", IPV4_FORMS)
@given(st.sampled_from(REFUSED_IPV4).flatmap(lambda text: inside(IPv4Network(text))))
def test_every_ipv6_form_of_a_refused_address_is_refused(form: str, address: Address) -> None:
    address_in_form = IPV4_FORMS[form](int(address))
    refusal_of(url_of(address_in_form))
    refusal_of(f"http://[{address_in_form.exploded.upper()}]/")
    opened = TargetPolicy(allow_networks=(ip_network(address_in_form),))
    assert form == "mapped" or parse_target(url_of(address_in_form), opened)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_every_ipv4_address_that_python_calls_private_is_refused(address: IPv4Address) -> None:
    """`is_global` misses some forms, but every address that it calls not global is refused."""
    if not address.is_global:
        assert special_use(address) is not None


@given(st.integers(0, 2**128 - 1).map(IPv6Address) | inside(IPv6Network("2000::/3")))
def test_every_ipv6_address_that_python_calls_private_is_refused(address: ipaddress.IPv6Address) -> None:
    if not address.is_global and address.ipv4_mapped is None:
        assert special_use(address) is not None


def test_a_mapped_address_becomes_ipv4() -> None:
    assert unmapped_address(ip_address("::ffff:8.8.8.8")) == ip_address("8.8.8.8")
    assert unmapped_address(ip_address("2606:4700::1")) == ip_address("2606:4700::1")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.255.255.255", "::1", "localhost", "LocalHost")),
        *((host, False) for host in ("128.0.0.0", "126.255.255.255", "::", "::2", "0.0.0.0", "localhost.", "")),  # noqa: S104
        *((host, False) for host in ("[::1]", "::ffff:127.0.0.1", "127.1", "localhost.example")),
    ],
)
def test_only_loopback_addresses_and_localhost_are_loopback(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_equal_targets_are_equal_values() -> None:
    assert parse_target("https://a.example/", ANY) == Target(
        "https://a.example/", "https", "a.example", 443, "/", address=None
    )
