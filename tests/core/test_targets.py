"""The rules for callback targets: spellings, the address table, hidden addresses, and what the operator opens."""

import ipaddress
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.targets import (
    Address,
    Network,
    Target,
    TargetPolicy,
    check_address,
    is_loopback,
    parse_target,
    special_use,
    unmapped_address,
)
from tests.core.harness import ANY, malformed, refusal_of


def words(text: str) -> list[str]:
    return text.split()


# This second table, from IANA's registries and the contract, checks the table of the code.
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
    """Returns a strategy for addresses of a network, including its first and its last."""
    return st.integers(0, network.num_addresses - 1).map(lambda index: network[index])


def url_of(address: Address, port: int = 80) -> str:
    return f"http://[{address}]:{port}/" if address.version == 6 else f"http://{address}:{port}/"


# --- URLs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://example.com/hook?a=1", "example.com", 443, "/hook?a=1"),
        ("http://example.com", "example.com", 80, "/"),
        ("HTTP://EXAMPLE.com.:8080?x", "example.com", 8080, "/?x"),
        ("https://example.com:/a", "example.com", 443, "/a"),
        ("https://my_service:9000/a", "my_service", 9000, "/a"),
        ("https://ex%61mple.com/%2f/../b//c", "example.com", 443, "/%2f/../b//c"),
        ("https://straße.example/ü?ü=\"'<>", "xn--strae-oqa.example", 443, "/%C3%BC?%C3%BC=\"'<>"),
        ("https://例え。テスト/", "xn--r8jz45g.xn--zckzah", 443, "/"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "/"),
        ("https://[2606:4700:0::1111]:444/", "2606:4700::1111", 444, "/"),
    ],
)
def test_a_url_is_split_into_its_parts(url: str, host: str, port: int, path: str) -> None:
    target = parse_target(url, ANY)
    assert (target.url, target.host, target.port, target.path) == (url, host, port, path)
    assert (target.address is not None) == (host[0] in "28")


def test_host_keys_and_host_headers() -> None:
    def names(url: str) -> tuple[str, str]:
        target = parse_target(url, ANY)
        return target.host_key, target.authority

    assert names("https://example.com/") == ("example.com:443", "example.com")
    assert names("http://example.com:443/") == ("example.com:443", "example.com:443")
    assert names("http://[2606:4700::1]/") == ("[2606:4700::1]:80", "[2606:4700::1]")


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("", "absolute"),
        ("/hook", "absolute"),
        ("example.com/hook", "absolute"),
        ("http:example.com", "host"),
        ("http:///hook", "host"),
        ("http://", "host"),
        ("http://:80/", "host name"),
        ("http://./", "host name"),
        ("http://a..b/", "host name"),
        ("http://-a.example/", "host name"),
        ("http://a.example\\@b.example/", "a user or a password"),
        ("http://a.example\\b/", "host name"),
        ("http://user:pw@example.com/", "a user or a password"),
        ("http://@example.com/", "a user or a password"),
        ("http://example.com/#", "fragment"),
        ("http://example.com/#frag", "fragment"),
        ("http://example.com/a b", "white space"),
        (" http://example.com/", "white space"),
        ("http://example.com/a\r\nX: y", "white space"),
        ("http://exa\tmple.com/", "white space"),
        ("http://example.com/\u200b", "invisible"),
        ("http://example.com/\ud800", "invisible"),
        ("http://example.com/%zz", "hexadecimal"),
        ("http://example.com/%", "hexadecimal"),
        ("http://exam%ple.com/", "hexadecimal"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:8a/", "port"),
        ("http://example.com:99999999999999999999/", "port"),
        ("http://example.com:80:80/", "port"),
        ("http://::1/", "port"),
        ("http://[::1/", "port"),
        ("http://[]/", "IPv6"),
        ("http://[v1.a]/", "IPv6"),
        ("http://[1.2.3.4]/", "IPv6"),
        ("http://1.2.3.4.5/", "IPv4"),
        ("http://256.1.1.1/", "IPv4"),
        ("http://4294967296/", "IPv4"),
        ("http://09.1.1.1/", "host name"),
        ("http://example.1/", "host name"),
        ("http://%00example.com/", "host name"),
        ("http://a%2fb.example/", "host name"),
        ("http://example.com%40b.example/", "host name"),
        ("http://℀.example/", "host name"),
        ("http://xn--\u00fc.example/", "host name"),
        (f"http://{'a' * 64}.example/", "host name"),
        (f"http://{'a.' * 127}example/", "host name"),
        (f"http://example.com/{'a' * 2030}", "2048"),
    ],
)
def test_a_malformed_url_is_an_invalid_request(url: str, rule: str) -> None:
    assert rule in malformed(url)


def test_the_longest_url_is_accepted() -> None:
    url = "http://example.com/"
    assert parse_target(url + "a" * (2048 - len(url)), ANY).host == "example.com"


@pytest.mark.parametrize("url", ["ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)", "localhost:80/"])
def test_only_http_and_https_are_accepted(url: str) -> None:
    assert "http and https" in refusal_of(url)


@pytest.mark.parametrize(
    "host",
    words("""127.1 2130706433 0x7f000001 0X7F.1 0177.0.0.1 017700000001 0 0x 00 127.0.0.1. 127.0.1 8.8.2056 010.8.8.8
    \uff11\uff12\uff17.0.0.1 ①②⑦.⓪.⓪.① 127。0。0。1 %31%32%37.0.0.1 127%2e0.0.1 0x08.8.8.8 08.0x8.8.8"""),
)
def test_odd_spellings_of_ipv4_are_refused_in_open_networks_too(host: str) -> None:
    everything = TargetPolicy(allow_networks=(ip_network("0.0.0.0/0"),))
    with pytest.raises((TargetRefused, InvalidRequest)) as refused:
        parse_target(f"http://{host}/", everything)
    if host != "08.0x8.8.8":  # no octal number: no address in any spelling
        assert "usual spelling" in str(refused.value)


@pytest.mark.parametrize("zone", ["%eth0", "%25eth0", "%1"])
def test_zones_are_refused(zone: str) -> None:
    assert "zone" in refusal_of(f"http://[fe80::1{zone}]/")


@given(st.text(max_size=40))
def test_no_text_gets_through_as_anything_but_a_target(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/", f"http://a.example/{text}", f"http://[{text}]/"):
        try:
            target = parse_target(url, ANY)
        except (TargetRefused, InvalidRequest):
            continue
        assert target.host.isascii()
        assert target.path.isascii()
        assert target.path.startswith("/")
        assert target.address is None or special_use(target.address) is None


@given(st.text(st.characters(codec="ascii"), max_size=20))
def test_a_query_is_never_repeated(secret: str) -> None:
    for url in ("http://127.0.0.1/", "http://a.example:0/", "http://127.1/", "ftp://a.example/"):
        with pytest.raises((TargetRefused, InvalidRequest)) as refused:
            parse_target(f"{url}?key=QUERY{secret}", ANY)
        assert "QUERY" not in str(refused.value)


# --- the operator's rules -----------------------------------------------------------------------------------------


def test_ports() -> None:
    policy = TargetPolicy(ports=frozenset({443, 8443}))
    assert parse_target("https://example.com:8443/", policy).port == 8443
    assert parse_target("https://example.com/", policy).port == 443
    assert "port 80" in refusal_of("http://example.com/", policy)


def test_hosts() -> None:
    policy = TargetPolicy(allow_hosts=("hooks.example", "*.Apps.example", "[2606:4700::1]", "8.8.8.8"))
    for host in ("hooks.example", "HOOKS.example.", "a.apps.example", "a.b.apps.example", "[2606:4700::1]", "8.8.8.8"):
        assert parse_target(f"http://{host}/", policy)
    for host in ("apps.example", "xapps.example", "a.hooks.example", "other.example", "8.8.4.4"):
        assert "allowed hosts" in refusal_of(f"http://{host}/", policy)


def test_an_allowed_host_is_no_allowed_address() -> None:
    assert "loopback" in refusal_of("http://127.0.0.1/", TargetPolicy(allow_hosts=("127.0.0.1",)))


def test_networks_open_exactly_themselves() -> None:
    policy = TargetPolicy(allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128"), ip_network("10.1.0.0/16")))
    for host in ("127.0.0.1", "127.255.0.9", "[::1]", "10.1.2.3", "[::ffff:127.0.0.1]", "8.8.8.8"):
        assert parse_target(f"http://{host}/", policy)
    for host in ("10.2.0.1", "[::]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "192.168.0.1"):
        refusal_of(f"http://{host}/", policy)


def test_https_only_refuses_http() -> None:
    policy = TargetPolicy(https_only=True)
    assert parse_target("https://example.com/", policy)
    assert "https only" in refusal_of("http://example.com/", policy)
    assert "https only" in refusal_of("http://8.8.8.8/", policy)


def test_https_only_does_not_concern_open_networks() -> None:
    policy = TargetPolicy(https_only=True, allow_networks=(ip_network("127.0.0.0/8"),))
    assert parse_target("http://127.0.0.1/", policy)
    assert parse_target("http://sidecar/", policy), "its addresses decide"
    check_address(ip_address("127.0.0.1"), policy, 80, https=False)
    check_address(ip_address("8.8.8.8"), policy, 443, https=True)
    with pytest.raises(TargetRefused, match="https only"):
        check_address(ip_address("8.8.8.8"), policy, 80, https=False)


def test_the_bridge_itself_is_never_a_target() -> None:
    policy = TargetPolicy(
        allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")),
        own_ports=frozenset({8080}),
        own_addresses=frozenset({ip_address("8.8.8.8")}),
    )
    for text in words("""127.0.0.1 127.9.9.9 0.0.0.0 ::1 :: 8.8.8.8 ::ffff:127.0.0.1
        ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::"""):
        assert "the bridge's own" in refusal_of(url_of(ip_address(text), 8080), policy)
        assert parse_target(url_of(ip_address(text), 8081), policy)
    assert parse_target("http://8.8.4.4:8080/", policy)


@pytest.mark.parametrize("text", ["10.99.0.1", "192.168.1.1", "fd00::1", "100.64.0.1"])
def test_another_machine_may_use_the_port_of_the_bridge(text: str) -> None:
    policy = TargetPolicy(
        allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")),
        own_ports=frozenset({8080}),
        own_addresses=frozenset({ip_address("10.99.0.2")}),
    )
    assert parse_target(url_of(ip_address(text), 8080), policy)
    assert "the bridge's own" in refusal_of("http://10.99.0.2:8080/", policy)


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
        ("64:ff9b::7f00:1", "contains 127.0.0.1 (NAT64), which is loopback"),
        ("64:ff9b:1::7f00:1", "local NAT64"),
        ("2002:7f00:1::", "contains 127.0.0.1 (6to4), which is loopback"),
        ("2001:0:808:808::", "Teredo"),
        ("2a00::5efe:10.0.0.1", "contains 10.0.0.1 (ISATAP), which is private"),
        ("4000::1", "outside global unicast"),
    ],
)
def test_the_refusal_names_the_rule(address: str, rule: str) -> None:
    assert rule in refusal_of(url_of(ip_address(address)))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_accepted(text: str) -> None:
    check_address(ip_address(text), ANY, 443, https=True)
    assert parse_target(url_of(ip_address(text)), ANY).address == ip_address(text)


@pytest.mark.parametrize("network", REFUSED_IPV4 + REFUSED_IPV6)
def test_the_first_and_last_addresses_of_refused_networks_are_refused(network: str) -> None:
    first, last = ip_network(network)[0], ip_network(network)[-1]
    for address in (first, last):
        with pytest.raises(TargetRefused):
            check_address(address, ANY, 80, https=False)


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
    """`is_global` is true for some addresses that are refused too, but each for which it is false must be refused."""
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
