"""The rules for callback targets: spellings, the address table, hidden addresses, and what the operator opens."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.targets import (
    Address,
    TargetPolicy,
    embedded_ipv4,
    judge_address,
    parse_target,
    special_use,
)

ANY = TargetPolicy()


def words(text: str) -> list[str]:
    return text.split()


def url_of(address: Address, port: int = 80) -> str:
    return f"http://[{address}]:{port}/" if address.version == 6 else f"http://{address}:{port}/"


def refusal_of(url: str, policy: TargetPolicy = ANY) -> str:
    with pytest.raises(TargetRefused) as refused:
        parse_target(url, policy)
    return str(refused.value)


def malformed(url: str) -> str:
    with pytest.raises(InvalidRequest) as invalid:
        parse_target(url, ANY)
    [(field, rule)] = invalid.value.fields
    assert field == "callback_url"
    return rule


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
        ("http://a.example\\@b.example/", "user info"),
        ("http://a.example\\b/", "host name"),
        ("http://user:pw@example.com/", "user info"),
        ("http://@example.com/", "user info"),
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


INVALID_HOST = "must have a valid host name"
INVALID_IPV4 = "must have a valid IPv4 address"
INVALID_PERCENT = "must have two hexadecimal digits after each %"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("example.com", "must be an absolute http or https URL"),
        ("http:///hook", "must name a host"),
        ("http://a.example/#x", "must have no fragment"),
        ("http://u@a.example/", "must have no user info"),
        ("http://[::1/", "must have a valid host and port"),
        ("http://a.example:0/", "must have a port from 1 to 65535"),
        ("http://[1.2.3.4]/", "must have a valid IPv6 address in its brackets"),
        (f"http://a.example/{'a' * 2048}", "must be at most 2048 characters"),
        ("http://a.example/ ", "must have no white space, control or invisible characters"),
        ("http://a.example/%2", INVALID_PERCENT),
        ("http://a.example/%g2", INVALID_PERCENT),
        ("http://a.example/%2g", INVALID_PERCENT),
        ("http://a.example/%2]", INVALID_PERCENT),
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
        ("ftp://a.example/", "only http and https targets are reached"),
        ("http://[fe80::1%eth0]/", "addresses with a zone are not reached"),
        ("http://127.0.0.1/", "127.0.0.1 is loopback (127.0.0.0/8)"),
        ("http://[::ffff:127.0.0.1]/", "::ffff:7f00:1 is loopback (127.0.0.0/8)"),
        ("http://[64:ff9b::7f00:1]/", "64:ff9b::7f00:1 holds 127.0.0.1 (NAT64), which is loopback (127.0.0.0/8)"),
        ("http://[2002:7f00:1::]/", "2002:7f00:1:: holds 127.0.0.1 (6to4), which is loopback (127.0.0.0/8)"),
        (
            "http://[2a00::5efe:10.0.0.1]/",
            "2a00::5efe:a00:1 holds 10.0.0.1 (ISATAP), which is private (10.0.0.0/8)",
        ),
        ("http://[4000::1]/", "4000::1 is outside global unicast (2000::/3)"),
    ],
)
def test_a_refused_url_gets_exactly_this_message(url: str, message: str) -> None:
    assert refusal_of(url) == message


def test_the_policys_refusals_have_exactly_these_messages() -> None:
    assert (
        refusal_of("http://a.example:81/", TargetPolicy(ports=frozenset({80})))
        == "port 81 is not among the allowed ports"
    )
    assert (
        refusal_of("http://a.example/", TargetPolicy(allow_hosts=("b.example",)))
        == "a.example is not among the allowed hosts"
    )
    https_only = TargetPolicy(https_only=True)
    assert refusal_of("http://a.example/", https_only) == "a.example is reached by https only"
    assert refusal_of("http://8.8.8.8/", https_only) == "8.8.8.8 is reached by https only"
    own = TargetPolicy(own_port=80, own_addresses=frozenset({ip_address("8.8.8.8")}))
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
    judge_address(ip_address("127.0.0.1"), policy, 80, https=False)
    judge_address(ip_address("8.8.8.8"), policy, 443, https=True)
    with pytest.raises(TargetRefused, match="https only"):
        judge_address(ip_address("8.8.8.8"), policy, 80, https=False)


def test_the_bridge_itself_is_never_a_target() -> None:
    policy = TargetPolicy(
        allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")),
        own_port=8080,
        own_addresses=frozenset({ip_address("8.8.8.8")}),
    )
    for text in words("""127.0.0.1 0.0.0.0 10.0.0.1 169.254.1.1 ::1 :: fe80::1 fd00::1 8.8.8.8 ::ffff:127.0.0.1
        ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::"""):
        assert "the bridge's own" in refusal_of(url_of(ip_address(text), 8080), policy)
        assert parse_target(url_of(ip_address(text), 8081), policy)
    assert parse_target("http://8.8.4.4:8080/", policy)
