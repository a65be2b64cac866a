"""Content links open one watch's video, until they end, and nothing else."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.links import content_link, link_is_good

KEY = b"k" * 32
ENDS = 1_795_446_245


@pytest.fixture
def signature() -> str:
    return parse_qs(urlsplit(content_link("https://bridge.example", "wat_1", ENDS, KEY)).query)["signature"][0]


def test_a_link_leads_to_the_watchs_content(signature: str) -> None:
    link = content_link("https://bridge.example/under", "wat_1", ENDS, KEY)
    assert link == f"https://bridge.example/under/watch/wat_1/content?expires={ENDS}&signature={signature}"
    assert set(signature) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_link_is_good_until_it_ends(signature: str) -> None:
    assert link_is_good("wat_1", str(ENDS), signature, KEY, now=ENDS - 0.001)
    assert not link_is_good("wat_1", str(ENDS), signature, KEY, now=ENDS)


@pytest.mark.parametrize(
    ("watch_id", "expires", "key"),
    [
        ("wat_2", str(ENDS), KEY),
        ("wat_1", str(ENDS + 1), KEY),
        ("wat_1", f"0{ENDS}", KEY),
        ("wat_1", f"+{ENDS}", KEY),
        ("wat_1", "", KEY),
        ("wat_1", "٣", KEY),
        ("wat_1", "9" * 5000, KEY),
        ("wat_1", str(ENDS), b"o" * 32),
    ],
)
def test_a_link_is_good_for_nothing_else(signature: str, watch_id: str, expires: str, key: bytes) -> None:
    assert not link_is_good(watch_id, expires, signature, key, now=0)


@pytest.mark.parametrize("suffix", ["=", "A", "ä", "\udcff"])
def test_a_changed_signature_is_refused(signature: str, suffix: str) -> None:
    assert not link_is_good("wat_1", str(ENDS), signature + suffix, KEY, now=0)
    assert not link_is_good("wat_1", str(ENDS), signature[:-1], KEY, now=0)


@given(st.text(), st.text(), st.text())
def test_no_text_makes_the_judgement_raise(watch_id: str, expires: str, signature: str) -> None:
    assert not link_is_good(watch_id, expires, signature, KEY, now=0)
