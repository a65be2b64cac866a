"""What the search looks for in a pasted text, and which watches it finds."""

import json
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.ids import EVENT_ID_PREFIX, WatchIds, event_id, event_key, watch_id_text
from bridge.core.model import EventType
from bridge.core.registration import compact
from bridge.core.watch_search import MAX_TEXT, SearchedWatch, SearchText, first_id_at, matches

ID = "wat_01m8hk26970000000000000007"
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


def watch(context: Any = None, **fields: str) -> SearchedWatch:
    url = fields.get("url", "https://app.example/Hook?key=hidden")
    return SearchedWatch(ID, fields.get("task_id", "task_1"), url, "app.example:443", compact(context or {}), "shop")


def finds(text: str, context: Any = None, **fields: str) -> bool:
    return matches(SearchText.of(text), watch(context, **fields))


@given(TEXTS.filter(lambda text: text.strip()))
def test_every_string_in_a_context_is_found_in_any_case(text: str) -> None:
    context = {"a": [1, {"b": text}]}
    for searched in (text, text.upper() if text.upper().casefold() == text.casefold() else text):
        assert finds(searched, context)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_in_a_context_is_found_as_json_writes_it(number: float) -> None:
    stored = compact({"n": number})
    assert finds(stored.decode().removeprefix('{"n":').removesuffix("}"), {"n": number})


@pytest.mark.parametrize("text", ["1e3", "2.5E30", "-1e-7"])
def test_a_number_is_found_in_another_form(text: str) -> None:
    assert finds(text, {"n": json.loads(text)})
    assert SearchText.of("1e999").number is None


@pytest.mark.parametrize("text", ["n", "true", "null", "hidden", "key=hidden", "?key", "https://other.example/Hook"])
def test_keys_constants_and_queries_are_not_searched(text: str) -> None:
    assert not finds(text, {"n": [True, None]})


@given(st.dictionaries(TEXTS, TEXTS, max_size=4), TEXTS)
def test_a_text_is_found_exactly_where_a_value_has_it(context: dict[str, str], text: str) -> None:
    try:
        search = SearchText.of(text)
    except ValueError:
        return
    assert matches(search, watch(context)) == (
        any(search.text in value.casefold() for value in context.values()) or matches(search, watch())
    )


@pytest.mark.parametrize("value", ['say "k": yes', 'a\\":', '\\\\"k":1', '{"k":"k"}'])
def test_a_value_that_looks_like_a_key_is_found(value: str) -> None:
    for text in ("k", value, value[-3:]):
        assert finds(text, {"x": value}) or text not in value
    assert not finds("key_name", {"key_name": value})


def test_a_context_of_many_levels_is_searched() -> None:
    context: Any = "deep"
    for _ in range(300):
        context = [context]
    assert finds("deep", {"a": context})


@pytest.mark.parametrize(
    ("pasted", "place"),
    [
        ("https://app.example/hook?key=1", "https://app.example/hook"),
        ("HTTPS://App.Example/Hook#part", "https://app.example/hook"),
        ("app.example/hook?key=1", "app.example/hook"),
        ("/hook?key=1", "/hook"),
        ("hook?key=1&b=2", "hook"),
        ("hook", "hook"),
        ("?key=1", None),
        ("really?", None),
        ("really? a=b", None),
        ("is v1.2 done?", None),
    ],
)
def test_the_query_of_a_pasted_url_is_not_searched(pasted: str, place: str | None) -> None:
    assert SearchText.of(pasted).place == place


@pytest.mark.parametrize("pasted", [f" {ID}\n", f'"{ID}",', f"<{ID}>", f"`{ID}`;", f"(\u00a0{ID} )"])
def test_what_surrounds_a_pasted_text_is_removed(pasted: str) -> None:
    assert SearchText.of(pasted).given == ID


@pytest.mark.parametrize("text", ["", " ", "\n\t", "a\0b", "x" * (MAX_TEXT + 1), "\ud800"])
def test_a_text_that_cannot_be_searched_for_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 2,048 characters, without NUL"):
        SearchText.of(text)
    assert SearchText.of('""').given == '""'


def test_whole_ids_in_a_text_are_recognised() -> None:
    event = event_id(ID, EventType.FAILED)
    old = EVENT_ID_PREFIX + "a2" * 16
    found = SearchText.of(f"{ID.upper()} of https://bridge.example/#watch={ID} {event}, {old} {ID}x")
    assert (found.watch_ids, found.event_ids, found.task_id) == ((ID,), (event, old), None)
    assert SearchText.of(ID).task_id == ID


@pytest.mark.parametrize("event_type", EventType)
def test_an_events_id_says_its_watch_and_its_type(event_type: EventType) -> None:
    text = event_id(ID, event_type)
    assert event_key(text) == (ID, event_type)
    for start in range(len(text)):
        assert finds(text[start:])
    assert event_key(EVENT_ID_PREFIX + "a2" * 16) is None
    assert event_key(text[:-1] + "x") is None


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_an_id_that_is_made_later_is_above_the_first_id_of_a_time(first: float, second: float) -> None:
    earlier, later = sorted((first, second))
    assert first_id_at(earlier) <= WatchIds(lambda _: 0).next(later)
    assert first_id_at(-1e300) == "wat_" + watch_id_text(0)
    assert first_id_at(1e300) > first_id_at(later)
    assert orjson.dumps(first_id_at(later))


# --- spellings of a URL -----------------------------------------------------------------------------------------------

URL = "https://App.Example:443/%7Ekim/a%20b/café?key=hidden"


@pytest.mark.parametrize(
    "pasted",
    [
        *(URL, "https://app.example/~kim", "HTTPS://APP.EXAMPLE.:443/~kim/a b", "app.example:443/%7ekim"),
        *("app.example./~kim/", "app.example:0443/~kim", "//app.example/%7ekim"[2:], "/~kim/a%20b/caf%C3%A9", "%7Ekim"),
        *("/%7Ekim", "~kim/a b", "b/CAFÉ", "caf%c3%a9", "app.example.", "App.Example:443", "%61pp.example/~%6Bim"),
    ],
)
def test_a_callback_url_is_found_in_any_spelling(pasted: str) -> None:
    plain = "https://app.example/~kim/a%20b/caf%C3%A9"
    for stored in (URL, plain, plain.replace("example/", "example.:443/")):
        assert finds(pasted, url=stored), stored


@pytest.mark.parametrize(
    "text", ["https://app.example:80/~kim", "http://app.example/~kim", "app.example:444", "~kim/b"]
)
def test_another_url_is_not_found(text: str) -> None:
    assert not finds(text, url=URL)
    assert not finds("key", url=URL)


def test_a_url_is_read_with_the_host_that_it_begins_with_and_without_one() -> None:
    def parts(text: str) -> list[tuple[str, str, str]]:
        return [(part.text, part.host, part.path) for part in SearchText.of(text).url_parts]

    assert parts("Shop.example:443/%7Ekim") == [
        ("shop.example:443/~kim", "", "shop.example:443/~kim"),
        ("shop.example/~kim", "shop.example", "/~kim"),
    ]
    assert parts("http://localhost/x") == [
        ("http://localhost/x", "", "http://localhost/x"),
        ("http://localhost/x", "localhost", "/x"),
    ]
    assert parts("shop.example") == [("shop.example", "", "shop.example"), ("shop.example", "shop.example", "")]
    assert parts("hook") == [("hook", "", "hook")]
    assert parts("hook/a.b") == [("hook/a.b", "", "hook/a.b")]
    assert parts("http://shop.example/a://b")[1] == ("http://shop.example/a://b", "shop.example", "/a://b")
    assert parts("shop.example/a://b")[1] == ("shop.example/a://b", "shop.example", "/a://b")


def test_a_path_may_have_what_separates_a_scheme() -> None:
    assert finds("app.example/a%3A//b", url="https://app.example/a://b")


def test_a_part_of_a_url_that_begins_with_the_port_is_found_as_it_was_registered() -> None:
    assert finds(":443/hook", url="https://app.example:443/hook")


def test_a_url_part_without_a_valid_host_is_a_text() -> None:
    for text in ("a b.c/d", "x[::1/x", "1.2/x", "app.example:99999/x"):
        assert [part.text for part in SearchText.of(text).url_parts] == [text]
    assert SearchText.of("?key").url_parts == ()
    assert [part.host for part in SearchText.of("http://[::1]:81/x").url_parts] == ["", "[::1]:81"]


@given(st.text("abc/~ %é", min_size=1, max_size=8), st.booleans(), st.sampled_from(["", ":443", ".", ".:443"]))
def test_the_path_of_a_url_is_found_encoded_and_not(path: str, upper: bool, end: str) -> None:  # noqa: FBT001
    encoded = quote(path, safe="/")
    every = "".join(f"%{byte:02x}" for byte in path.encode())
    host = "APP.EXAMPLE" if upper else "app.example"
    for pasted in (encoded, every, quote(path, safe="/~é")):
        assert finds(f"https://{host}{end}/{pasted}", url=f"https://app.example/{encoded}")
        assert finds(f"https://{host}/{encoded}", url=f"https://{host}{end}/{pasted}")


# --- exact values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ID, ID[4:12], "task_7", "K_7", "app.example/hook", "app.example:443", "hook"])
def test_a_part_of_one_of_its_texts_finds_a_watch(text: str) -> None:
    assert finds(text, task_id="task_7")


@pytest.mark.parametrize("text", ["task_8", "other.example", "hidden", "shop", "?"])
def test_a_text_that_is_in_none_of_them_finds_nothing(text: str) -> None:
    assert not finds(text, {"order": 4711}, task_id="task_7", url="https://app.example/hook?key=hidden?b")


def test_the_host_as_it_is_stored_is_searched_too() -> None:
    assert finds("app.example:443", url="https://APP.EXAMPLE./hook")
    assert finds(":443", url="https://app.example/hook")
    assert finds("/other", url="https://127.1/other")


def test_the_name_of_an_app_is_searched_on_the_page_only() -> None:
    assert matches(SearchText.of("SHOP", in_apps=True), watch())
    assert not matches(SearchText.of("xyz", in_apps=True), watch())
    assert not matches(SearchText.of("SHOP"), watch())


def test_values_after_a_list_and_after_constants_are_searched() -> None:
    assert finds("needle", {"z": "needle", "a": [1, 2], "b": None, "c": True})
    assert finds("needle", [None, True, {"a": "needle"}, [1], False])


def test_a_text_may_be_as_long_as_a_url_and_no_longer() -> None:
    assert SearchText.of("x" * MAX_TEXT).text == "x" * MAX_TEXT
    with pytest.raises(ValueError, match=f"^must be 1 to {MAX_TEXT:,} characters, without NUL$"):
        SearchText.of("x" * (MAX_TEXT + 1))
    for surrogate in ("\ud800", "\udfff"):
        with pytest.raises(ValueError, match="characters"):
            SearchText.of(surrogate)


def test_the_first_id_of_a_time_begins_with_its_milliseconds() -> None:
    assert first_id_at(1.2345) == "wat_" + watch_id_text(1234 << 80)
    assert first_id_at(-5.0) == "wat_" + watch_id_text(0)
    assert first_id_at(1e18) == "wat_" + watch_id_text(((1 << 48) - 1) << 80)
