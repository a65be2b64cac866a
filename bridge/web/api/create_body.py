"""Reads the model in the body of a create call. A body that cannot be read here has no model; amux checks the body."""

import re
from typing import Any, Final

import orjson

from bridge.core.task_class import check_model

# A form's field, as HTTP clients write it (RFC 7578): its headers in any order, a blank line, its value.
_FIELD: Final = re.compile(
    rb'\r\ncontent-disposition: *form-data; *name="?model"?[ \t]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,800})\r\n--',
    re.IGNORECASE,
)


def model_in(content_type: str, body: object) -> str | None:
    """Returns the `model` of a JSON body or of a form; None if it has none, or the body is streamed and not read."""
    if not isinstance(body, bytes):
        return None
    try:
        model = _in_form(body) if content_type.lower().startswith("multipart/") else _in_json(body)
        return check_model(model) if isinstance(model, str) else None
    except ValueError:
        return None


def _in_json(body: bytes) -> Any:
    document = orjson.loads(body)
    return document.get("model") if isinstance(document, dict) else None


def _in_form(body: bytes) -> str | None:
    found = _FIELD.search(body)
    return found[1].decode() if found else None
