"""The API's document as a page: no script, and nothing from elsewhere. Everything on it comes from the document."""

import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

STYLE: Final = files("bridge.web.api").joinpath("docs.css").read_text(encoding="utf-8")

_REFERENCE: Final = "#/components/schemas/"
_WORDS = re.compile(r"`([^`]+)`|\*([^*\n]+)\*")
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
_WEBHOOKS: Final = "webhooks"
_TYPES: Final = "types"

Json = Mapping[str, Any]


def page_of(document: Json) -> str:
    """The whole page."""
    info = document["info"]
    groups = [(tag["name"], tag["description"], list(_of_group(document, tag["name"]))) for tag in document["tags"]]
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}: API</title><style>{STYLE}</style></head>",
        '<body><a class="skip" href="#content">To the content</a><div class="frame">',
        _contents(document, groups),
        f'<main id="content"><h1>{escape(info["title"])}</h1>',
        f'<p class="soft">Version {escape(info["version"])} · <a href="openapi.json">OpenAPI 3.1</a></p>',
        *(f"<p>{_text(part)}</p>" for part in info["description"].strip().split("\n\n")),
        *(_group(document, *group) for group in groups),
        _hooks(document),
        _types(document),
        "</main></div></body></html>",
    ]
    return "\n".join(parts)


def _of_group(document: Json, group: str) -> Iterable[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if group in operation["tags"]:
                yield method.upper(), path, operation


def _contents(document: Json, groups: list[tuple[str, str, list[tuple[str, str, Json]]]]) -> str:
    blocks = [
        (name, ((_anchor(operation["operationId"]), operation["summary"]) for _, _, operation in found))
        for name, _, found in groups
    ]
    hooks = ((_anchor(name), f"<code>{escape(name)}</code>") for name in document["webhooks"])
    types = ((_anchor(name), escape(name)) for name in document["components"]["schemas"])
    shown = [(name, [(anchor, escape(text)) for anchor, text in links]) for name, links in blocks]
    shown += [("Webhooks", list(hooks)), ("Types", list(types))]
    lists = (f"<h2>{escape(name)}</h2><ul>{''.join(map(_link, links))}</ul>" for name, links in shown)
    return f'<nav aria-label="Contents">{"".join(lists)}</nav>'


def _link(link: tuple[str, str]) -> str:
    anchor, text = link
    return f'<li><a href="#{anchor}">{text}</a></li>'


def _group(document: Json, name: str, told: str, operations: list[tuple[str, str, Json]]) -> str:
    articles = "".join(_operation(document, *one) for one in operations)
    return f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2><p class="soft">{_text(told)}</p>{articles}</section>'


def _operation(document: Json, method: str, path: str, operation: Json) -> str:
    security = operation["security"]
    mark = "open to all" if not security else "token or link" if {} in security else "token"
    parts = [
        f'<article id="{_anchor(operation["operationId"])}"><h3>{escape(operation["summary"])}</h3>',
        f'<p class="route"><span class="verb {method}">{method}</span><code>{escape(path)}</code>',
        f'<span class="mark">{mark}</span></p>',
    ]
    if told := operation.get("description"):
        parts.append(f"<p>{_text(told)}</p>")
    parts += [_parameters(operation), _body(document, operation), _answers(operation), "</article>"]
    return "".join(parts)


def _hooks(document: Json) -> str:
    articles = []
    for name, methods in document["webhooks"].items():
        operation = methods["post"]
        articles.append(
            f'<article id="{_anchor(name)}"><h3>{_text(operation["summary"])}</h3>'
            f'<p class="route"><span class="verb HOOK">POST</span><code>{escape(name)}</code></p>'
            f"<p>{_text(operation['description'])}</p>{_parameters(operation)}"
            f"<h4>Body</h4>{_bodies(operation)}{_answers(operation)}</article>"
        )
    told = "What your receiver is sent, signed as Standard Webhooks has it."
    return f'<section id="{_WEBHOOKS}"><h2>Webhooks</h2><p class="soft">{told}</p>{"".join(articles)}</section>'


def _types(document: Json) -> str:
    articles = (
        f'<article id="{_anchor(name)}"><h3>{escape(name)}</h3><p>{_text(schema.get("description", ""))}</p>'
        f"{_fields(schema)}</article>"
        for name, schema in document["components"]["schemas"].items()
    )
    return f'<section id="{_TYPES}"><h2>Types</h2>{"".join(articles)}</section>'


# --- parts of an operation ----------------------------------------------------------------------------------------


def _parameters(operation: Json) -> str:
    rows = [
        (f"<code>{escape(one['name'])}</code>", _kind(one["schema"]), f"{_text(one['description'])} {_place(one)}")
        for one in operation.get("parameters", ())
    ]
    return f"<h4>Parameters</h4>{_table(rows)}" if rows else ""


def _place(parameter: Json) -> str:
    return f'<span class="mark">{escape(parameter["in"])}</span>'


def _body(document: Json, operation: Json) -> str:
    """What a request carries; its fields stand here, for that is what is looked for first."""
    if "requestBody" not in operation:
        return ""
    shown = [f"<h4>Body</h4>{_bodies(operation)}"]
    for content in operation["requestBody"]["content"].values():
        reference = content["schema"].get("$ref", "")
        if reference:
            shown.append(_fields(document["components"]["schemas"][reference.removeprefix(_REFERENCE)]))
    return "".join(shown)


def _bodies(operation: Json) -> str:
    rows = [(f"<code>{escape(kind)}</code>", _kind(one["schema"]), "") for kind, one in _contents_of(operation)]
    return _table(rows)


def _contents_of(operation: Json) -> Iterable[tuple[str, Json]]:
    found: Mapping[str, Json] = operation["requestBody"]["content"]
    return found.items()


def _answers(operation: Json) -> str:
    rows = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        kinds = dict.fromkeys(_kind(one["schema"]) if one.get("schema") else "anything" for one in content.values())
        headers = "".join(
            f"<br><code>{escape(name)}</code>: {_text(one['description'])}"
            for name, one in answer.get("headers", {}).items()
        )
        rows.append((f"<code>{escape(status)}</code>", ", ".join(kinds), _text(answer["description"]) + headers))
    return f"<h4>Answers</h4>{_table(rows)}"


def _fields(schema: Json) -> str:
    needed = schema.get("required", ())
    rows = []
    for name, one in schema.get("properties", {}).items():
        mark = '<span class="needed">required</span>' if name in needed and "additionalProperties" in schema else ""
        rows.append((f"<code>{escape(name)}</code>{mark}", _kind(one), _field_text(one)))
    if rows:
        return _table(rows)
    return f"<p>{_kind(schema)}</p>"


def _field_text(schema: Json) -> str:
    told = [_text(schema["description"])] if schema.get("description") else []
    told += [f"For example <code>{escape(str(one))}</code>." for one in schema.get("examples", ())]
    if schema.get("default") is not None:
        told.append(f"Default: <code>{escape(str(schema['default']))}</code>.")
    return " ".join(told)


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = (f'<tr><th scope="row">{a}</th><td class="kind">{b}</td><td>{c}</td></tr>' for a, b, c in rows)
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


# --- a schema in a few words --------------------------------------------------------------------------------------


def _kind(schema: Json) -> str:
    """A schema's type in HTML, with its bounds."""
    if reference := schema.get("$ref"):
        name = reference.removeprefix(_REFERENCE)
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[several]))
    if "enum" in schema or "const" in schema:
        words = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(word))}</code>" for word in words)
    return _plain_kind(schema)


def _plain_kind(schema: Json) -> str:
    kind = schema.get("type", "anything")
    told = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        return f"object of {_kind(inner)}"
    if form := schema.get("format"):
        told = f"{told} ({escape(form)})"
    bounds = (
        ("exclusiveMinimum", "above"),
        ("minimum", "from"),
        ("maximum", "to"),
        ("minLength", "at least"),
        ("maxLength", "at most"),
    )
    return " ".join([told, *(f"{word} {schema[name]:g}" for name, word in bounds if name in schema)])


def _text(text: str) -> str:
    """Our own descriptions: `code` and *emphasis*, all else as it is."""
    return _WORDS.sub(lambda found: _word(found[1], found[2]), escape(text, quote=False))


def _word(code: str | None, stressed: str | None) -> str:
    return f"<code>{code}</code>" if code is not None else f"<em>{stressed}</em>"


def _anchor(name: str) -> str:
    return _UNSAFE.sub("-", name).strip("-")
