"""Names that the operator opens with their private addresses."""

from ipaddress import ip_address

import pytest

from bridge.core.targets import TargetPolicy, refusal_of

PRIVATE_HOSTS = TargetPolicy(allow_private_hosts=("app", "*.svc.cluster.local"), own_ports=frozenset({8080}))


@pytest.mark.parametrize("name", ["app", "a.svc.cluster.local", "a.b.svc.cluster.local"])
@pytest.mark.parametrize("text", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "::1", "fd00::1"])
def test_a_name_may_be_opened_with_its_private_addresses(name: str, text: str) -> None:
    address = ip_address(text)
    assert refusal_of(address, PRIVATE_HOSTS, 80, https=False, name=name) is None
    assert refusal_of(address, PRIVATE_HOSTS, 80, https=False, name=None), "a literal address is not opened"
    for other in ("svc.cluster.local", "other", "app.example", "xsvc.cluster.local"):
        assert refusal_of(address, PRIVATE_HOSTS, 80, https=False, name=other)


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "169.254.1.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"),
        *("0.0.0.0", "::", "224.0.0.1", "198.18.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::"),  # noqa: S104
        "::ffff:169.254.169.254",
    ],
)
def test_an_opened_name_opens_no_other_special_address(text: str) -> None:
    assert refusal_of(ip_address(text), PRIVATE_HOSTS, 80, https=False, name="app")


def test_an_opened_name_does_not_open_the_port_of_the_bridge_or_plain_http() -> None:
    loopback = ip_address("127.0.0.1")
    assert "the bridge's own" in str(refusal_of(loopback, PRIVATE_HOSTS, 8080, https=False, name="app"))
    policy = TargetPolicy(allow_private_hosts=("app",), https_only=True)
    assert "https only" in str(refusal_of(loopback, policy, 80, https=False, name="app"))
