"""A content link is valid for one watch's video until it expires, and for nothing else."""

import base64
import hashlib
import hmac
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.links import content_link, is_valid_link

KEY = b"k" * 32
EXPIRES = 1_795_446_245


@pytest.fixture
def signature() -> str:
    return parse_qs(urlsplit(content_link("https://bridge.example", "wat_1", EXPIRES, KEY)).query)["signature"][0]


def test_a_link_points_to_the_watchs_content(signature: str) -> None:
    link = content_link("https://bridge.example/under", "wat_1", EXPIRES, KEY)
    assert link == f"https://bridge.example/under/watch/wat_1/content?expires={EXPIRES}&signature={signature}"
    assert set(signature) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_link_is_valid_until_it_expires(signature: str) -> None:
    assert is_valid_link("wat_1", str(EXPIRES), signature, KEY, now=EXPIRES - 0.001)
    assert not is_valid_link("wat_1", str(EXPIRES), signature, KEY, now=EXPIRES)


@pytest.mark.parametrize(
    ("watch_id", "expires", "key"),
    [
        ("wat_2", str(EXPIRES), KEY),
        ("wat_1", str(EXPIRES + 1), KEY),
        ("wat_1", f"0{EXPIRES}", KEY),
        ("wat_1", f"+{EXPIRES}", KEY),
        ("wat_1", "", KEY),
        ("wat_1", "٣", KEY),
        ("wat_1", "9" * 5000, KEY),
        ("wat_1", str(EXPIRES), b"o" * 32),
    ],
)
def test_a_link_with_other_parts_or_key_is_invalid(signature: str, watch_id: str, expires: str, key: bytes) -> None:
    assert not is_valid_link(watch_id, expires, signature, key, now=0)


def test_a_signature_stays_the_same_across_versions() -> None:
    """Links that were sent in earlier callbacks stay valid after an upgrade."""
    link = content_link("https://b", "wat_1", EXPIRES, KEY)
    message = b"amux-bridge content link v1\nwat_1\n1795446245"
    digest = hmac.new(KEY, message, hashlib.sha256).digest()
    assert link.rpartition("signature=")[2] == base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.mark.parametrize(
    ("expires", "valid"), [("9" * 15, True), ("9" * 16, False), (f"+{EXPIRES}", False), ("٣" * 10, False)]
)
def test_an_expiry_is_at_most_15_digits_even_if_it_is_signed(expires: str, *, valid: bool) -> None:
    link = content_link("", "wat_1", expires, KEY)  # type: ignore[arg-type]  # a link that the bridge never makes
    signature = link.rpartition("signature=")[2]
    assert is_valid_link("wat_1", expires, signature, KEY, now=0) is valid


@pytest.mark.parametrize("suffix", ["=", "A", "ä", "\udcff"])
def test_a_changed_signature_is_invalid(signature: str, suffix: str) -> None:
    assert not is_valid_link("wat_1", str(EXPIRES), signature + suffix, KEY, now=0)
    assert not is_valid_link("wat_1", str(EXPIRES), signature[:-1], KEY, now=0)


@given(st.text(), st.text(), st.text())
def test_the_check_never_raises(watch_id: str, expires: str, signature: str) -> None:
    assert not is_valid_link(watch_id, expires, signature, KEY, now=0)
