"""The exact rule or message for each refused callback target, and the targets just inside each limit."""

from ipaddress import ip_address

import pytest

from bridge.core.errors import TargetRefused
from bridge.core.targets import TargetPolicy, embedded_ipv4, parse_target
from bridge.core.targets import refusal_of as refusal_of_address
from bridge.settings.settings import Settings
from tests.core.harness import ANY, malformed, refusal_of

INVALID_HOST = "must have a valid host name"
INVALID_IPV4 = "must have a valid IPv4 address"
INVALID_PERCENT = "must have two hexadecimal digits after each %"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("example.com", "must be an absolute http or https URL"),
        ("http:///hook", "must name a host"),
        ("http://a.example/#x", "must have no fragment"),
        ("http://u@a.example/", "must not contain a user or a password"),
        ("http://[::1/", "must have a valid host and port"),
        ("http://a.example:0/", "must have a port from 1 to 65535"),
        ("http://[1.2.3.4]/", "must have a valid IPv6 address in its brackets"),
        (f"http://a.example/{'a' * 2048}", "must be at most 2048 characters"),
        ("http://a.example/ ", "must have no white space, control or invisible characters"),
        ("http://a.example/%2", INVALID_PERCENT),
        ("http://a.example/%g2", INVALID_PERCENT),
        ("http://a.example/%2g", INVALID_PERCENT),
        ("http://a.example/%2]", INVALID_PERCENT),
        ("http://a.example/[%zz", INVALID_PERCENT),
        ("http://a.example:000080/", "must have a port from 1 to 65535"),
        ("http://a_.b-.example/", INVALID_HOST),
        (f"http://{'a.' * 123}abcdefgh/", INVALID_HOST),  # 254 characters
        ("http://xn--\u00fc.example/", INVALID_HOST),
        ("http://127.0.0.1%C2%AD/", INVALID_HOST),  # IDNA removes the soft hyphen
        ("http://1_0.0.0.1/", INVALID_HOST),
        ("http://+1.0.0.1/", INVALID_HOST),
        ("http://\u0661.0.0.1/", INVALID_HOST),  # int() would read this Arabic digit
        (f"http://{'0' * 64}1/", INVALID_HOST),
        ("http://1.2.3.4.0/", INVALID_IPV4),
        ("http://1.2.3.256/", INVALID_IPV4),
        ("http://1.2.65536/", INVALID_IPV4),
        ("http://1.16777216/", INVALID_IPV4),
        ("http://4294967296/", INVALID_IPV4),
        ("http://256.0.0.1/", INVALID_IPV4),
    ],
)
def test_a_malformed_url_gets_exactly_this_rule(url: str, rule: str) -> None:
    assert malformed(url) == rule


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("0x", "0.0.0.0"),  # noqa: S104  it is refused, not bound
        ("0177.0.0.1", "127.0.0.1"),
        ("1.2.65535", "1.2.255.255"),
        ("1.16777215", "1.255.255.255"),
        ("4294967295", "255.255.255.255"),
        ("010.8.2056", "8.8.8.8"),
        ("1.2.3.4.", "1.2.3.4"),
        ("0" * 63 + "1", "0.0.0.1"),
    ],
)
def test_another_spelling_of_ipv4_is_refused_with_the_address(spelling: str, address: str) -> None:
    message = f"IPv4 addresses are accepted in their usual spelling only: {address}"
    assert refusal_of(f"http://{spelling}/") == message


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://a.example/", "only http and https targets are allowed"),
        ("http://[fe80::1%eth0]/", "addresses with a zone are not allowed"),
        ("http://[fe80::1%eth0]/[", "addresses with a zone are not allowed"),
        ("http://127.0.0.1/", "127.0.0.1 is loopback (127.0.0.0/8)"),
        ("http://[::ffff:127.0.0.1]/", "::ffff:7f00:1 is loopback (127.0.0.0/8)"),
        ("http://[64:ff9b::7f00:1]/", "64:ff9b::7f00:1 contains 127.0.0.1 (NAT64), which is loopback (127.0.0.0/8)"),
        ("http://[2002:7f00:1::]/", "2002:7f00:1:: contains 127.0.0.1 (6to4), which is loopback (127.0.0.0/8)"),
        (
            "http://[2a00::5efe:10.0.0.1]/",
            "2a00::5efe:a00:1 contains 10.0.0.1 (ISATAP), which is private (10.0.0.0/8)",
        ),
        ("http://[4000::1]/", "4000::1 is outside global unicast (2000::/3)"),
    ],
)
def test_a_refused_url_gets_exactly_this_message(url: str, message: str) -> None:
    assert refusal_of(url) == message


def test_the_policys_refusals_have_exactly_these_messages() -> None:
    assert (
        refusal_of("http://a.example:81/", TargetPolicy(ports=frozenset({80})))
        == "port 81 is not among the allowed ports (BRIDGE_CALLBACK_PORTS)"
    )
    assert (
        refusal_of("http://a.example/", TargetPolicy(allow_hosts=("b.example",)))
        == "a.example is not among the allowed hosts (BRIDGE_CALLBACK_ALLOW_HOSTS)"
    )
    https_only = TargetPolicy(https_only=True)
    assert (
        refusal_of("http://a.example/", https_only)
        == "a.example may be called over https only (BRIDGE_CALLBACK_HTTPS_ONLY)"
    )
    assert (
        refusal_of("http://8.8.8.8/", https_only)
        == "8.8.8.8 may be called over https only (BRIDGE_CALLBACK_HTTPS_ONLY)"
    )
    assert parse_target("https://8.8.8.8/", https_only).https
    own = TargetPolicy(own_ports=frozenset({80}), own_addresses=frozenset({ip_address("8.8.8.8")}))
    assert refusal_of("http://8.8.8.8/", own) == "8.8.8.8 is local, and port 80 is the bridge's own"


def test_ports_and_names_at_their_limits_are_accepted() -> None:
    assert parse_target("http://a.example:65535/", ANY).port == 65535
    assert parse_target("http://a.example:1/", ANY).port == 1
    assert parse_target(f"http://{'a' * 63}.example/", ANY).host == "a" * 63 + ".example"
    longest = "a." * 123 + "abcdefg"  # 253 characters
    assert parse_target(f"http://{longest}/", ANY).host == longest
    assert parse_target("http://ex%C2%ADample.com/", ANY).host == "example.com"  # IDNA removes the soft hyphen
    assert parse_target("http://a.example", ANY).path == "/"
    assert parse_target("http://a.example?x", ANY).path == "/?x"


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("8.8.8.8", []),
        ("2606:4700::1", []),
        ("::ffff:8.8.4.4", [("IPv4-mapped", "8.8.4.4")]),
        ("64:ff9b::8.8.4.4", [("NAT64", "8.8.4.4")]),
        ("2002:808:404::1", [("6to4", "8.8.4.4")]),
        ("2a00::5efe:8.8.4.4", [("ISATAP", "8.8.4.4")]),
        ("2a00::200:5efe:8.8.4.4", [("ISATAP", "8.8.4.4")]),
        ("2002:808:404::5efe:1.2.3.4", [("6to4", "8.8.4.4"), ("ISATAP", "1.2.3.4")]),
        ("2a00::100:5efe:8.8.4.4", []),
        ("2a00::5eff:8.8.4.4", []),
        ("64:ff9b:0:0:0:1:808:404", []),
    ],
)
def test_every_ipv4_address_inside_an_ipv6_address_is_found(address: str, held: list[tuple[str, str]]) -> None:
    assert [(form, str(inner)) for form, inner in embedded_ipv4(ip_address(address))] == held


def test_an_allowed_host_may_be_written_with_a_dot_at_its_end() -> None:
    policy = TargetPolicy(allow_hosts=("Hooks.example.", "*.apps.example."))
    for host in ("hooks.example", "a.apps.example"):
        assert parse_target(f"http://{host}/", policy)


# --- settings -----------------------------------------------------------------------------------------------------

NETWORKS = "BRIDGE_CALLBACK_ALLOW_NETWORKS"
PRIVATE_HOSTS = "BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS"


@pytest.mark.parametrize(
    ("address", "of_literal", "of_name"),
    [
        ("10.0.0.1", (NETWORKS,), (NETWORKS, PRIVATE_HOSTS)),
        ("::1", (NETWORKS,), (NETWORKS, PRIVATE_HOSTS)),
        ("::ffff:10.0.0.1", (NETWORKS,), (NETWORKS, PRIVATE_HOSTS)),
        ("198.18.0.1", (NETWORKS,), (NETWORKS,)),  # some proxies give names such addresses
        ("169.254.1.1", (NETWORKS,), (NETWORKS,)),
        ("64:ff9b::10.0.0.1", (NETWORKS,), (NETWORKS,)),
        ("169.254.169.254", (), ()),
        ("64:ff9b::169.254.169.254", (), ()),
        ("100.100.100.200", (), ()),
        ("fd00:ec2::254", (), ()),
        ("224.0.0.1", (), ()),
        ("255.255.255.255", (), ()),
        ("ff02::1", (), ()),
    ],
)
def test_a_refused_address_has_the_settings_that_can_allow_it(
    address: str, of_literal: tuple[str, ...], of_name: tuple[str, ...]
) -> None:
    found = [refusal_of_address(ip_address(address), ANY, 443, https=True, name=name) for name in (None, "app.example")]
    assert [one and one.settings for one in found] == [of_literal, of_name]


@pytest.mark.parametrize(
    ("url", "policy", "settings"),
    [
        ("https://a.example:81/", TargetPolicy(ports=frozenset({443})), ("BRIDGE_CALLBACK_PORTS",)),
        ("https://a.example/", TargetPolicy(allow_hosts=("b.example",)), ("BRIDGE_CALLBACK_ALLOW_HOSTS",)),
        ("http://a.example/", TargetPolicy(https_only=True), ("BRIDGE_CALLBACK_HTTPS_ONLY",)),
        ("http://1.1.1.1/", TargetPolicy(https_only=True), ("BRIDGE_CALLBACK_HTTPS_ONLY",)),
        ("http://127.0.0.1:8080/", TargetPolicy(own_ports=frozenset({8080})), ()),
        ("ftp://a.example/", ANY, ()),
        ("http://[fe80::1%25eth0]/", ANY, ()),
        ("http://127.1/", ANY, ()),
    ],
)
def test_a_refused_url_has_the_settings_that_can_allow_it(
    url: str, policy: TargetPolicy, settings: tuple[str, ...]
) -> None:
    with pytest.raises(TargetRefused) as refused:
        parse_target(url, policy)
    assert refused.value.settings == settings
    assert {name.removeprefix("BRIDGE_").lower() for name in settings} <= Settings.model_fields.keys()
