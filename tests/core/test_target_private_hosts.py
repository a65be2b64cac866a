"""Names whose private addresses the operator opens."""

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import strategies as st

from bridge.core.targets import (
    Address,
    Network,
    TargetPolicy,
    refusal_reason,
)


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


# --- names with private addresses ---------------------------------------------------------------------------------

PRIVATE_HOSTS = TargetPolicy(allow_private_hosts=("app", "*.svc.cluster.local"), own_ports=frozenset({8080}))


@pytest.mark.parametrize("name", ["app", "a.svc.cluster.local", "a.b.svc.cluster.local"])
@pytest.mark.parametrize("text", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "::1", "fd00::1"])
def test_a_name_may_be_opened_with_its_private_addresses(name: str, text: str) -> None:
    address = ip_address(text)
    assert refusal_reason(address, PRIVATE_HOSTS, 80, https=False, name=name) is None
    assert refusal_reason(address, PRIVATE_HOSTS, 80, https=False, name=None), "a literal address is not opened"
    for other in ("svc.cluster.local", "other", "app.example", "xsvc.cluster.local"):
        assert refusal_reason(address, PRIVATE_HOSTS, 80, https=False, name=other)


@pytest.mark.parametrize(
    "text",
    words("""169.254.169.254 169.254.1.1 fe80::1 fd00:ec2::254 100.100.100.200 168.63.129.16 0.0.0.0 :: 224.0.0.1
        198.18.0.1 64:ff9b::10.0.0.1 2002:a00:1:: ::ffff:169.254.169.254"""),
)
def test_an_opened_name_opens_no_other_special_address(text: str) -> None:
    assert refusal_reason(ip_address(text), PRIVATE_HOSTS, 80, https=False, name="app")


def test_an_opened_name_does_not_open_the_port_of_the_bridge_or_plain_http() -> None:
    loopback = ip_address("127.0.0.1")
    assert "the bridge's own" in str(refusal_reason(loopback, PRIVATE_HOSTS, 8080, https=False, name="app"))
    policy = TargetPolicy(allow_private_hosts=("app",), https_only=True)
    assert "https only" in str(refusal_reason(loopback, policy, 80, https=False, name="app"))
