"""Reads a create request, which is JSON or a multipart form. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from typing import Any

import orjson

from bridge.sandbox.behaviour import BehaviourError

# Fields are read only from the first MiB of a form. A reference image after them may have any size.
_FIELDS_WITHIN = 1 << 20


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """The fields of a create request that the stand-in reads. `sandbox` is not checked yet."""

    model: str
    prompt: str
    sandbox: object


def read_create_request(content_type: str, body: bytes) -> CreateRequest:
    """Reads the body of a create request. `content_type` is the whole header, with the boundary.

    Raises BehaviourError if the body is neither JSON nor a form, or if a field has a wrong type.
    """
    fields = _from_form(content_type, body) if content_type.startswith("multipart/") else _from_json(body)
    model, prompt = fields.get("model") or "sandbox-video", fields.get("prompt") or ""
    for name, text in (("model", model), ("prompt", prompt)):
        if not isinstance(text, str):
            raise BehaviourError(f"{name}: should be a string")
    return CreateRequest(model, prompt, fields.get("sandbox"))


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BehaviourError(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BehaviourError("the body should be a JSON object")
    return fields


def _from_form(content_type: str, body: bytes) -> dict[str, Any]:
    """Returns a form's text fields. `sandbox[name]` and `sandbox[name][]`, which OpenAI's SDK sends, make an object."""
    fields: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for name, text in _text_parts(content_type, body):
        if name == "sandbox":
            fields[name] = _from_json(text.encode())
        elif name.startswith("sandbox[") and name.endswith("][]"):
            nested.setdefault(name[8:-3], []).append(text)
        elif name.startswith("sandbox[") and name.endswith("]"):
            nested[name[8:-1]] = text
        else:
            fields[name] = text
    return fields | {"sandbox": nested} if nested else fields


def _text_parts(content_type: str, body: bytes) -> Iterator[tuple[str, str]]:
    """Yields the name and the text of each part that is not a file. A form is a MIME message without its header."""
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body[:_FIELDS_WITHIN])
    for part in form.get_payload() if form.is_multipart() else ():
        if not isinstance(part, Message) or part.get_filename() is not None:
            continue
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            yield name, content.decode(errors="replace")
