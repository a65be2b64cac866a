"""Bodies in a receiver's own form: which templates are accepted, and what the filled bodies are."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.body_template import MAX_FILLED_BYTES, BadBody, compile_body, fill_body

BIG = 2**70 + 1  # no float has this value
EVENT = {
    "id": "evt_1",
    "object": "event",
    "type": "video.failed",
    "created_at": 1795446245,
    "timestamp": "2026-11-23T15:04:05Z",
    "data": {
        "id": "task_1",
        "url": None,
        "metadata": {"duration": 5.0, "seed": 20231234},
        "error": {"code": 7, "message": 'bad "prompt"\n\\ {{id}} \u2028 </script>'},
        "context": {
            "order": 17,
            "paid": True,
            "items": ["a", {"b": 2}],
            "a-b": {"\u8ba2\u5355": "x"},
            "big": 2**70 + 1,
        },
    },
}
PAYLOAD = json.dumps(EVENT).encode()


def filled(body: dict[str, Any], payload: bytes = PAYLOAD) -> Any:
    return json.loads(fill_body(compile_body(body), payload))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{type}}", "video.failed"),
        ("{{ type }}", "video.failed"),
        ("{{created_at}}", 1795446245),
        ("{{data.context.order}}", 17),
        ("{{data.context.paid}}", True),
        ("{{data.context.items}}", ["a", {"b": 2}]),
        ("{{data.context.items.1.b}}", 2),
        ("{{data.context.items.2}}", None),
        ("{{data.context.items.0001.b}}", 2),
        ("{{data.context.items.00001.b}}", None),  # no list of an event has so many elements
        ("{{data.context.items.x}}", None),
        ("{{data.context.a-b.\u8ba2\u5355}}", "x"),
        ("{{data.context.big}}", BIG),
        ("{{data.metadata.duration}}", 5.0),
        ("{{data.url}}", None),
        ("{{data.no_such_field}}", None),
        ("{{type.x}}", None),
        ("{{data}}", EVENT["data"]),
        ("{{data.error.message}}", 'bad "prompt"\n\\ {{id}} \u2028 </script>'),
        ("{{type}} ", "video.failed "),
        ("{{type}}{{id}}", "video.failedevt_1"),
        ("order {{data.context.order}}: {{type}}", "order 17: video.failed"),
        ("paid: {{data.context.paid}}", "paid: true"),
        ("url: {{data.url}}.", "url: ."),
        ("all: {{data.metadata}}", 'all: {"duration":5.0,"seed":20231234}'),
        ('say "{{type}}"', 'say "video.failed"'),
        ('"{{type}}"', '"video.failed"'),
        ('\\"{{type}}', '\\"video.failed'),
        ("\\{{type}}\\", "\\video.failed\\"),
        ("m: {{data.error.message}}", 'm: bad "prompt"\n\\ {{id}} \u2028 </script>'),
        ("{ {type} }", "{ {type} }"),
        ("{{{type}}}", "{video.failed}"),
        ("a}}b", "a}}b"),
        ("\u89c6\u9891 {{data.context.order}}", "\u89c6\u9891 17"),
    ],
)
def test_a_placeholder_becomes_the_events_value(text: str, expected: Any) -> None:
    assert filled({"a": [text]}) == {"a": [expected]}


def test_what_has_no_placeholder_stays_as_it_is() -> None:
    body = {
        "b": [1, 2.5, None, True, {"c": "text", "d": {}}],
        "a": 2**80,
        "\u00e9": "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    }
    assert filled(body) == body
    assert fill_body(b'{"b":1,"a":2}', PAYLOAD) == b'{"b":1,"a":2}'


@pytest.mark.parametrize(
    ("body", "path", "rule"),
    [
        ({"a": "{{foo}}"}, "a", "unknown name"),
        ({"a": "{{foo.type}}"}, "a", "unknown name"),
        ({"a": "ok {{type}} and {{Type}}"}, "a", "unknown name"),
        ({"a": {"b": ["x", "{{type"]}}, "a.b.1", "malformed"),
        ({"a": "{{}}"}, "a", "malformed"),
        ({"a": "{{ }}"}, "a", "malformed"),
        ({"a": "{{type}"}, "a", "malformed"),
        ({"a": "{{data..url}}"}, "a", "malformed"),
        ({"a": "{{.data}}"}, "a", "malformed"),
        ({"a": "{{data.}}"}, "a", "malformed"),
        ({"a": "{{data url}}"}, "a", "malformed"),
        ({"a": "{{data.url | upper}}"}, "a", "malformed"),
        ({"a": "{{data['url']}}"}, "a", "malformed"),
        ({"a": "{{1 + 1}}"}, "a", "malformed"),
        ({"a": "{{\ttype}}"}, "a", "malformed"),
        ({"a": "{{type\n}}"}, "a", "malformed"),
        ({"a": "{{{{type}}}}"}, "a", "malformed"),
        ({"{{type}}": 1}, "{{type}}", "no placeholder in its name"),
        ({"a": [{"x{{": 1}]}, "a.0.x{{", "no placeholder in its name"),
    ],
)
def test_a_bad_placeholder_is_refused_with_its_place(body: dict[str, Any], path: str, rule: str) -> None:
    with pytest.raises(BadBody) as caught:
        compile_body(body)
    [(where, found)] = caught.value.problems
    assert ".".join(where) == path
    assert rule in found


def test_every_bad_string_is_named() -> None:
    with pytest.raises(BadBody) as caught:
        compile_body({"a": "{{x}}", "b": "{{type}}", "c": "{{"})
    assert [path for path, _ in caught.value.problems] == [("a",), ("c",)]
    first, second = (rule for _, rule in caught.value.problems)
    assert str(caught.value) == f"{first}; {second}"
    assert first == (
        "has a placeholder with an unknown name; begin it with one of id, object, type, created_at, timestamp, data"
    )
    with pytest.raises(BadBody, match="^must have no placeholder in its name; only values have placeholders$"):
        compile_body({"{{id}}": 1})


def test_a_body_has_at_most_4_kib_and_32_levels() -> None:
    assert len(compile_body({"a": "x" * (4096 - 8)})) == 4096
    with pytest.raises(ValueError, match="must be at most 4,096 bytes as compact JSON; it is 4,097"):
        compile_body({"a": "x" * (4096 - 7)})
    assert compile_body(nested(32))
    with pytest.raises(BadBody) as caught:
        compile_body(nested(33))
    assert "32 levels" in caught.value.problems[0][1]


def nested(levels: int) -> dict[str, Any]:
    body: dict[str, Any] = {"a": 1}
    for _ in range(levels - 1):
        body = {"a": body}
    return body


def test_values_for_which_there_is_no_room_are_left_out() -> None:
    payload = json.dumps({"id": "evt_1", "data": {"context": {"long": "\u00e9" * 10_000}}}).encode()
    body = {"a": ["{{data.context.long}}"] * 10, "b": "x {{data.context.long}}", "c": "{{id}}"}
    encoded = fill_body(compile_body(body), payload)
    result = json.loads(encoded)
    assert len(encoded) <= MAX_FILLED_BYTES
    assert result["a"] == ["\u00e9" * 10_000] * 3 + [None] * 7
    assert (result["b"], result["c"]) == ("x ", "evt_1")


def test_a_context_that_is_nested_hundreds_of_levels_deep_is_filled_in_or_null() -> None:
    deep = b"[" * 900 + b"]" * 900
    payload = b'{"id":"evt_1","data":{"context":{"deep":%s,"big":%d}}}' % (deep, 2**90)
    template = compile_body({"a": "{{data.context.deep}}", "b": "{{id}}", "c": "t {{data.context.deep}}"})
    result = fill_body(template, payload)
    assert b'"b":"evt_1"' in result


def test_a_value_that_is_nested_too_deeply_is_as_a_missing_one() -> None:
    deep = b"[" * 1_010 + b"]" * 1_010
    template = compile_body({"a": "{{data.deep}}", "b": "t {{data.deep}}.", "c": "{{data.null}}", "d": "{{data.big}}"})
    for big in (b"1", b"%d" % 2**90):  # a number this long makes another parser read the event
        result = fill_body(template, b'{"data":{"deep":%s,"null":"null","big":%s}}' % (deep, big))
        # Newer versions of Python can write so many levels.
        assert result.startswith((b'{"a":null,"b":"t .","c":"null","d":', b'{"a":[[[[')), result[:60]
        assert float(result.rpartition(b'"d":')[2].rstrip(b"}")) == float(big)


def test_values_are_filled_in_up_to_exactly_64_kib() -> None:
    def size_with(length: int, body: dict[str, Any]) -> tuple[int, Any]:
        result = fill_body(compile_body(body), json.dumps({"data": {"long": "x" * length}}).encode())
        return len(result), json.loads(result)

    around = len('{"a":"","b":""}')
    fitting = (MAX_FILLED_BYTES - around) // 2
    size, both = size_with(fitting, {"a": "{{data.long}}", "b": "{{data.long}}"})
    assert (size, both) == (around + 2 * fitting, {"a": "x" * fitting, "b": "x" * fitting})
    size, one = size_with(fitting + 1, {"a": "{{data.long}}", "b": "{{data.long}}"})
    assert one == {"a": "x" * (fitting + 1), "b": None}
    in_text = MAX_FILLED_BYTES - len('{"a":"t "}')
    assert size_with(in_text, {"a": "t {{data.long}}"})[0] == MAX_FILLED_BYTES
    assert size_with(in_text + 1, {"a": "t {{data.long}}"})[1] == {"a": "t "}


# --- properties ---------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
evil_texts = st.text(alphabet=st.sampled_from('"\\{}[],:\n\t\0 {{id}}abc\u2028\u00e9\U0001f600'), max_size=30)
paths = st.sampled_from(
    ["type", "id", "data", "data.url", "data.error", "data.error.message", "data.context", "data.context.k", "data.x.y"]
)
pieces = st.one_of(
    paths.map(lambda path: f"{{{{{path}}}}}"),
    st.text(alphabet=st.sampled_from('"\\}:,ab \n\u00e9'), max_size=6),
)
texts = st.lists(pieces, max_size=5).map("".join)
bodies = st.dictionaries(
    st.text(alphabet=st.sampled_from('ab"\\}'), max_size=3),
    st.recursive(
        texts, lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("ab"), children, max_size=3)
    ),
    max_size=4,
)


def expected(template: Any, event: Any) -> Any:
    """Returns the filled template. The recursive walk is slow, but simple enough to trust."""
    if isinstance(template, dict):
        return {key: expected(value, event) for key, value in template.items()}
    if isinstance(template, list):
        return [expected(value, event) for value in template]
    if not isinstance(template, str):
        return template
    whole = re.fullmatch(r"\{\{([\w.]+)\}\}", template)
    if whole:
        return value_at(event, whole[1])
    return re.sub(r"\{\{([\w.]+)\}\}", lambda match: as_text(value_at(event, match[1])), template)


def value_at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def as_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(
    body=bodies,
    message=evil_texts | st.text(),
    context=st.dictionaries(st.text(), json_values | evil_texts, max_size=3),
    k=json_values,
)
def test_no_value_leaves_its_string_and_the_result_is_always_json(
    body: dict[str, Any], message: str, context: dict[str, Any], k: Any
) -> None:
    event = {
        "id": "evt_1",
        "type": "video.failed",
        "data": {"url": message, "error": {"code": None, "message": message}, "context": {**context, "k": k}},
    }
    payload = json.dumps(event).encode()
    result = fill_body(compile_body(body), payload)
    assert len(result) <= MAX_FILLED_BYTES
    found = json.loads(result)
    wanted = expected(body, json.loads(payload))
    # orjson and json may write the same float in different ways inside a text.
    assert found == wanted or has_float(k) or any(map(has_float, context.values()))
    assert shape(found, body) == shape(wanted, body)


def has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(has_float, value.values()))
    return any(map(has_float, value)) if isinstance(value, list) else isinstance(value, float)


def shape(value: Any, template: Any) -> Any:
    """Returns the names of the objects in a result, as deep as the template goes."""
    if isinstance(template, dict):
        return {key: shape(value[key], template[key]) for key in value}
    return [shape(one, each) for one, each in zip(value, template, strict=True)] if isinstance(template, list) else 0


@given(message=evil_texts, count=st.integers(1, 400))
def test_a_filled_body_has_a_bound(message: str, count: int) -> None:
    payload = orjson.dumps({"data": {"error": {"message": message * 100}}})
    template = compile_body({"a": "{{data.error.message}}" * (count // 4) + "x", "b": ["{{data}}"] * (count // 4)})
    result = fill_body(template, payload)
    json.loads(result)
    assert len(result) <= MAX_FILLED_BYTES
