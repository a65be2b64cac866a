"""`GET /openapi.json` and `GET /docs`: the API's document as JSON, and as an HTML page made of it.

The page has no script and loads nothing: its style is inline, and allowed by its hash.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from html import escape
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
from aiohttp import web

from bridge.web.api.json_schemas import COMPONENTS
from bridge.web.api.samples import pretty
from bridge.web.requests import JSON, query_of, secured

JsonObject: TypeAlias = Mapping[str, Any]

_STYLE: Final = files("bridge.web.api").joinpath("docs.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_MARKUP = re.compile(r"`([^`]+)`|\*([^*\n]+)\*")
_UNSAFE_IN_ANCHORS = re.compile(r"[^A-Za-z0-9]+")


class ApiDocument:
    """The API's document. `build` is called at the first request: building takes longer than the rest of a start."""

    def __init__(self, build: Callable[[], JsonObject]) -> None:
        self._build = build

    @cached_property
    def openapi(self) -> bytes:
        """The document as JSON (OpenAPI 3.1)."""
        return orjson.dumps(self._document)

    @cached_property
    def page(self) -> bytes:
        """The document as HTML."""
        return page_of(self._document).encode()

    @cached_property
    def _document(self) -> JsonObject:
        return self._build()


API_DOCUMENT: Final = web.AppKey("API_DOCUMENT", ApiDocument)


async def openapi(request: web.Request) -> web.StreamResponse:
    """Answers `GET /openapi.json` with the document as JSON."""
    query_of(request)
    return secured(web.Response(body=request.app[API_DOCUMENT].openapi, content_type=JSON))


async def docs(request: web.Request) -> web.StreamResponse:
    """Answers `GET /docs` with the document as HTML."""
    query_of(request)
    page = request.app[API_DOCUMENT].page
    return secured(web.Response(body=page, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS))


# --- the page -----------------------------------------------------------------------------------------------------


class _Operation(NamedTuple):
    """An operation of the document, with its method and path."""

    method: str
    path: str
    details: JsonObject


class _Group(NamedTuple):
    """A tag of the document, with its operations."""

    name: str
    description: str
    operations: list[_Operation]


def page_of(document: JsonObject) -> str:
    """Returns the whole page."""
    info = document["info"]
    groups = [_group_of(document, tag) for tag in document["tags"]]
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}: API</title><style>{_STYLE}</style></head>",
        '<body><a class="skip" href="#content">Skip to the content</a><div class="frame">',
        _table_of_contents(document, groups),
        f'<main id="content"><h1>{escape(info["title"])}</h1>',
        f'<p class="soft">Version {escape(info["version"])} · <a href="openapi.json">OpenAPI 3.1</a></p>',
        *(f"<p>{_text(paragraph)}</p>" for paragraph in info["description"].strip().split("\n\n")),
        *(_group_section(document, group) for group in groups),
        _webhooks_section(document),
        _errors_section(document),
        _types_section(document),
        "</main></div></body></html>",
    ]
    return "\n".join(parts)


def _group_of(document: JsonObject, tag: JsonObject) -> _Group:
    operations = [
        _Operation(method.upper(), path, details)
        for path, methods in document["paths"].items()
        for method, details in methods.items()
        if tag["name"] in details["tags"]
    ]
    return _Group(tag["name"], tag["description"], operations)


def _table_of_contents(document: JsonObject, groups: Iterable[_Group]) -> str:
    """Returns the navigation. On narrow screens each group is closed; the checkbox before it opens it."""
    lists = [
        _link_list(
            group.name,
            (
                (
                    one.details["operationId"],
                    f'<span class="verb {one.method}">{one.method}</span> <code>{_breakable(one.path)}</code>',
                )
                for one in group.operations
            ),
        )
        for group in groups
    ]
    lists.append(
        _link_list("Event catalogue", ((name, f"<code>{escape(name)}</code>") for name in document["webhooks"]))
    )
    errors = document["components"]["examples"]
    lists.append(_link_list("Errors", ((f"error {code}", f"<code>{escape(code)}</code>") for code in errors)))
    lists.append(_link_list("Types", ((name, escape(name)) for name in document["components"]["schemas"])))
    return f'<nav aria-label="Contents">{"".join(lists)}</nav>'


def _breakable(path: str) -> str:
    """Returns a path that may break before each slash."""
    return escape(path).replace("/", "<wbr>/").removeprefix("<wbr>")


def _link_list(title: str, links: Iterable[tuple[str, str]]) -> str:
    """Returns a titled list of links, each from a name and the HTML to show."""
    items = "".join(f'<li><a href="#{_anchor(name)}">{html}</a></li>' for name, html in links)
    box = f"nav-{_anchor(title)}"
    return (
        f'<div class="group"><input type="checkbox" id="{box}" aria-label="Show {escape(title)}">'
        f'<h2><label for="{box}">{escape(title)}</label></h2><ul>{items}</ul></div>'
    )


def _group_section(document: JsonObject, group: _Group) -> str:
    articles = "".join(_operation(document, operation) for operation in group.operations)
    return (
        f'<section id="{_anchor(group.name)}"><h2>{escape(group.name)}</h2>'
        f'<p class="soft">{_text(group.description)}</p>{articles}</section>'
    )


def _operation(document: JsonObject, operation: _Operation) -> str:
    method, path, details = operation
    security = details["security"]
    access = "no token" if not security else "token or link" if {} in security else "token"
    parts = [
        f'<article id="{_anchor(details["operationId"])}"><h3>{escape(details["summary"])}</h3>',
        f'<p class="route"><span class="verb {method}">{method}</span><code>{escape(path)}</code>',
        f'<span class="mark">{access}</span></p>',
    ]
    if description := details.get("description"):
        parts.append(f"<p>{_text(description)}</p>")
    parts += [_parameters(details), _request_body(document, details), _responses(details)]
    return "".join([*parts, _example(details), "</article>"])


def _example(details: JsonObject) -> str:
    """Returns an operation's example: the request as a command and as a program, and its answer."""
    if "x-codeSamples" not in details:
        return ""
    curl, *programs = details["x-codeSamples"]
    parts = [f"<h4>Example</h4>{_code('Request', curl['source'])}"]
    parts += [
        f"<details><summary>{escape(one['lang'])}</summary>{_code(one['lang'], one['source'])}</details>"
        for one in programs
    ]
    parts += [
        f"<h4>Answer: {escape(status)}</h4>{_code('Answer', pretty(value))}"
        for status, response in details["responses"].items()
        if status.startswith("2")
        for value in _values(response.get("content", {}))
    ]
    return "".join(parts)


def _values(content: JsonObject) -> list[Any]:
    """Returns the values of the examples of a request's or a response's content."""
    return [one["value"] for media in content.values() for one in media.get("examples", {}).values() if "value" in one]


def _code(label: str, source: str) -> str:
    """Returns a block of code, which the keyboard can scroll."""
    code = escape(source.strip(), quote=False)
    return f'<pre tabindex="0" role="group" aria-label="{escape(label)}"><code>{code}</code></pre>'


def _webhooks_section(document: JsonObject) -> str:
    articles = []
    for name, methods in document["webhooks"].items():
        details = methods["post"]
        articles.append(
            f'<article id="{_anchor(name)}"><h3>{_text(details["summary"])}</h3>'
            f'<p class="route"><span class="verb HOOK">POST</span><code>{escape(name)}</code></p>'
            f"<p>{_text(details['description'])}</p>{_parameters(details)}"
            f"<h4>Body</h4>{_content_types(details)}"
            f"{''.join(_code('Example', pretty(one)) for one in _values(details['requestBody']['content']))}"
            f"{_responses(details)}</article>"
        )
    intro = (
        "The requests that the bridge sends to receivers, signed as Standard Webhooks defines. Each has a real example."
    )
    return f'<section id="webhooks"><h2>Event catalogue</h2><p class="soft">{intro}</p>{"".join(articles)}</section>'


def _errors_section(document: JsonObject) -> str:
    articles = [
        f'<article id="{_anchor(f"error {code}")}"><h3>{escape(example["summary"])}</h3>'
        f'<p class="route"><span class="verb">{example["value"]["status"]}</span><code>{escape(code)}</code></p>'
        f"{_code('Example', pretty(example['value']))}</article>"
        for code, example in document["components"]["examples"].items()
    ]
    intro = "Every error is a problem document (RFC 9457). Each code has a real example."
    return f'<section id="errors"><h2>Errors</h2><p class="soft">{intro}</p>{"".join(articles)}</section>'


def _types_section(document: JsonObject) -> str:
    articles = (
        f'<article id="{_anchor(name)}"><h3>{escape(name)}</h3><p>{_text(schema.get("description", ""))}</p>'
        f"{_fields(schema)}</article>"
        for name, schema in document["components"]["schemas"].items()
    )
    return f'<section id="types"><h2>Types</h2>{"".join(articles)}</section>'


# --- parts of an operation ----------------------------------------------------------------------------------------


def _parameters(details: JsonObject) -> str:
    rows = [
        (
            f"<code>{escape(one['name'])}</code>",
            _type(one["schema"]),
            f'{_text(one["description"])} <span class="mark">{escape(one["in"])}</span>',
        )
        for one in details.get("parameters", ())
    ]
    return f"<h4>Parameters</h4>{_table(rows)}" if rows else ""


def _request_body(document: JsonObject, details: JsonObject) -> str:
    """Returns the fields of a request's body, and its content types, as HTML."""
    if "requestBody" not in details:
        return ""
    parts = [f"<h4>Body</h4>{_content_types(details)}"]
    for content in details["requestBody"]["content"].values():
        reference = content["schema"].get("$ref", "")
        if reference:
            parts.append(_fields(document["components"]["schemas"][reference.removeprefix(COMPONENTS)]))
    return "".join(parts)


def _content_types(details: JsonObject) -> str:
    contents = details["requestBody"]["content"].items()
    return _table((f"<code>{escape(name)}</code>", _type(content["schema"]), "") for name, content in contents)


def _responses(details: JsonObject) -> str:
    rows = []
    for status, response in details["responses"].items():
        contents = response.get("content", {}).values()
        types = dict.fromkeys(_type(content["schema"]) if content.get("schema") else "any" for content in contents)
        headers = "".join(
            f"<br><code>{escape(name)}</code>: {_text(header['description'])}"
            for name, header in response.get("headers", {}).items()
        )
        text = _text(response["description"])
        for code in (code for media in contents for code, one in media.get("examples", {}).items() if "$ref" in one):
            text = text.replace(
                f"<code>{code}</code>", f'<a href="#{_anchor(f"error {code}")}"><code>{code}</code></a>'
            )
        rows.append((f"<code>{escape(status)}</code>", ", ".join(types), text + headers))
    return f"<h4>Responses</h4>{_table(rows)}"


def _fields(schema: JsonObject) -> str:
    """Returns the table of an object's fields, or the type of a schema without fields.

    Only request models forbid other fields, and only theirs are marked as required: responses have all their fields.
    """
    required = schema.get("required", ()) if "additionalProperties" in schema else ()
    rows = []
    for name, field in schema.get("properties", {}).items():
        mark = '<span class="needed">required</span>' if name in required else ""
        rows.append((f"<code>{escape(name)}</code>{mark}", _type(field), _field_text(field)))
    if rows:
        return _table(rows)
    return f"<p>{_type(schema)}</p>"


def _field_text(schema: JsonObject) -> str:
    sentences = [_text(schema["description"])] if schema.get("description") else []
    sentences += [f"Example: <code>{escape(str(one))}</code>." for one in schema.get("examples", ())]
    if schema.get("default") is not None:
        sentences.append(f"Default: <code>{escape(str(schema['default']))}</code>.")
    return " ".join(sentences)


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = (f'<tr><th scope="row">{a}</th><td class="kind">{b}</td><td>{c}</td></tr>' for a, b, c in rows)
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


# --- a schema in a few words --------------------------------------------------------------------------------------

_BOUNDS: Final = (
    ("exclusiveMinimum", "above {:g}"),
    ("minimum", "from {:g}"),
    ("maximum", "to {:g}"),
    ("minLength", "of at least {:g} characters"),
    ("maxLength", "of at most {:g} characters"),
)


def _type(schema: JsonObject) -> str:
    """Returns a schema's type and bounds as HTML."""
    if reference := schema.get("$ref"):
        name = reference.removeprefix(COMPONENTS)
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    for combination in ("anyOf", "oneOf", "allOf"):
        if combination in schema:
            return " or ".join(dict.fromkeys(_type(one) for one in schema[combination]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
    return _simple_type(schema)


def _simple_type(schema: JsonObject) -> str:
    name = schema.get("type", "any")
    if name == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(values := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(values)}"
    text = " or ".join(name) if isinstance(name, list) else str(name)
    if form := schema.get("format"):
        text = f"{text} ({escape(form)})"
    return " ".join([text, *(words.format(schema[bound]) for bound, words in _BOUNDS if bound in schema)])


def _text(text: str) -> str:
    """Returns a description as HTML. Its markup is `code` and *emphasis*; everything else is escaped."""
    return _MARKUP.sub(
        lambda found: f"<em>{found[2]}</em>" if found[1] is None else f"<code>{found[1]}</code>",
        escape(text, quote=False),
    )


def _anchor(name: str) -> str:
    return _UNSAFE_IN_ANCHORS.sub("-", name).strip("-")
