"""Compares the address table with another implementation, ssrfguard: all that ssrfguard blocks is refused here too."""

from ipaddress import IPv4Address, IPv6Address, ip_network

from hypothesis import given
from hypothesis import strategies as st
from ssrfguard import DEFAULT_DENIED

from bridge.core.targets import special_use

NETWORKS = [block.network for block in DEFAULT_DENIED.blocks]
IPV4 = [network for network in NETWORKS if network.version == 4]
IPV6 = [network for network in NETWORKS if network.version == 6]


def bits(lowest: int, highest: int) -> st.SearchStrategy[int]:
    return st.integers(lowest, highest)


NEAR_IPV4 = st.sampled_from(IPV4).flatmap(
    lambda network: bits(max(0, int(network[0]) - 2), min(2**32 - 1, int(network[-1]) + 2))
)
NEAR_IPV6 = st.sampled_from(IPV6).flatmap(
    lambda network: bits(max(0, int(network[0]) - 2), min(2**128 - 1, int(network[-1]) + 2))
)


@given(NEAR_IPV4.map(IPv4Address) | st.integers(0, 2**32 - 1).map(IPv4Address))
def test_what_the_oracle_blocks_in_ipv4_is_refused(address: IPv4Address) -> None:
    if DEFAULT_DENIED.classify(address).blocked:
        assert special_use(address) is not None


@given(NEAR_IPV6.map(IPv6Address) | st.integers(0, 2**128 - 1).map(IPv6Address))
def test_what_the_oracle_blocks_in_ipv6_is_refused(address: IPv6Address) -> None:
    if DEFAULT_DENIED.classify(address).blocked:
        assert special_use(address) is not None


@given(NEAR_IPV4, st.sampled_from(["::ffff:0:0/96", "64:ff9b::/96", "::/96"]))
def test_what_the_oracle_blocks_inside_another_form_is_refused(inner: int, form: str) -> None:
    address = IPv6Address(int(ip_network(form)[0]) | inner)
    if DEFAULT_DENIED.classify(address).blocked:
        assert special_use(address) is not None
