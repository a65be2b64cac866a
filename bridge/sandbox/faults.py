"""Answers, and how a fault changes a good one. Pure. `server.py` handles the failures of the connection."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import cache
from typing import Any

import orjson

from bridge.sandbox.behaviour import Fault, FaultKind, GatewayFault

JSON_TYPE = "application/json; charset=utf-8"
_HTML_TYPE = "text/html; charset=utf-8"
_PAGE = b"<!doctype html><html><head><title>%s</title></head><body><h1>%s</h1></body></html>"
_MIB = 1 << 20

REQUEST_ID = "$request_id$"
"""The placeholder for the id of the request. It is replaced when the answer is sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before it is sent. `by_amux` is false for an answer of a proxy."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    by_amux: bool = True


@dataclass(frozen=True, slots=True)
class Call:
    """The parts of a request that an answer may depend on. `now` is in Unix seconds."""

    base_url: str
    task_id: str
    key: str
    now: float


def json_answer(body: Any, status: int = 200) -> Answer:
    """Returns an answer with JSON, as amux sends it."""
    return Answer(status, orjson.dumps(body))


def flat_error(status: int, code: str, message: str) -> Answer:
    """Returns an error in the form of amux's task routes."""
    return json_answer({"code": code, "message": message, "data": None}, status)


def nested_error(status: int, message: str, kind: str, code: str | None = None) -> Answer:
    """Returns an error in the form of amux's gateway and documentation. The content route's errors have no `code`."""
    error = {"message": message, "type": kind}
    return json_answer({"error": error if code is None else error | {"code": code}}, status)


def key_error(status: int, message: str) -> Answer:
    """Returns an error about the key, whose message ends with the id of the request."""
    return nested_error(status, f"{message} (request id: {REQUEST_ID})", "new_api_error", "")


def no_such_route(method: str, path: str) -> Answer:
    """Returns amux's 404 for a path that has no route."""
    error = {"message": f"Invalid URL ({method} {path})", "type": "invalid_request_error", "param": "", "code": ""}
    return json_answer({"error": error}, 404)


def page(title: str, heading: str, status: int = 200, *, by_amux: bool = True) -> Answer:
    """Returns a web page as an answer: a page of amux's dashboard, or of a proxy."""
    return Answer(status, _PAGE % (title.encode(), heading.encode()), _HTML_TYPE, by_amux=by_amux)


def replaces(fault: Fault | None) -> bool:
    """Returns whether a fault hides the good answer, so that amux does no work for it."""
    return fault is not None and fault.kind in _FIXED


TASK_NOT_EXIST = flat_error(400, "task_not_exist", "task_not_exist")
UNAUTHORIZED = nested_error(401, "Invalid token", "new_api_error", "")
_OVERLOADED = "system cpu overloaded (current: 93.4%, threshold: 90%)"

_FIXED: Mapping[FaultKind | GatewayFault, Answer] = {
    FaultKind.HTML_200: page("Amux", "Amux", by_amux=False),
    FaultKind.EMPTY_BODY: Answer(200, b""),
    FaultKind.DATA_NULL: json_answer({"code": "success", "data": None}),
    FaultKind.NOT_FOUND_400: TASK_NOT_EXIST,
    FaultKind.NOT_FOUND_404: nested_error(404, "The task does not exist", "invalid_request_error", "task_not_found"),
    FaultKind.WRONG_BASE_404: no_such_route("GET", "/"),
    FaultKind.UNAUTHORIZED: UNAUTHORIZED,
    FaultKind.QUOTA: nested_error(401, "The token's quota is used up", "new_api_error", ""),
    FaultKind.FORBIDDEN_KEY: nested_error(403, "The user has been banned", "new_api_error", ""),
    GatewayFault.DEAD_CHANNEL: key_error(400, "Invalid channel ID"),
    GatewayFault.USER_DELETED: key_error(500, "Database error, please contact the administrator"),
    FaultKind.FORBIDDEN_TASK: nested_error(403, "Not your task", "invalid_request_error", "task_not_found"),
    FaultKind.REJECTED: flat_error(400, "invalid_request", "The request cannot be served"),
    FaultKind.RATE_LIMITED: nested_error(429, "Too many requests", "new_api_error", "rate_limit_exceeded"),
    FaultKind.SERVER_ERROR: flat_error(500, "get_task_failed", "database is locked"),
    GatewayFault.CPU_OVERLOADED: json_answer(
        {"error": {"message": _OVERLOADED, "type": "new_api_error", "param": "", "code": "system_cpu_overloaded"}}, 503
    ),
    FaultKind.PANIC: nested_error(500, "Panic detected, error: nil pointer", "new_api_panic"),
    FaultKind.NOT_IMPLEMENTED: flat_error(501, "not_implemented", "not_implemented: 45"),
    FaultKind.BAD_GATEWAY_HTML: page("502", "Bad gateway", 502, by_amux=False),
    FaultKind.REDIRECT: Answer(302, b"", _HTML_TYPE, by_amux=False),
}


def answer_for(fault: Fault, good: Answer, call: Call) -> Answer:
    """Returns the answer with the fault. A fault of the connection does not change `good`: `sending.py` applies it."""
    if fixed := _FIXED.get(fault.kind):
        return _with_options(fixed, fault, call)
    if change := _CHANGES.get(fault.kind):
        return change(good, call)
    return good


def _with_options(answer: Answer, fault: Fault, call: Call) -> Answer:
    """Returns a fixed answer with the fault's status and headers, and without a body if `fault.empty` is true."""
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = _retry_after(fault, call.now)
    if fault.kind is FaultKind.REDIRECT:
        headers["Location"] = f"{call.base_url}/moved"
    body, by_amux = (b"", False) if fault.empty else (answer.body, answer.by_amux)
    return replace(answer, status=fault.status or answer.status, headers=headers, body=body, by_amux=by_amux)


def _retry_after(fault: Fault, now: float) -> str:
    seconds = fault.retry_after or 0
    return formatdate(now + seconds, usegmt=True) if fault.as_date else f"{seconds:g}"


# --- changes of the good answer -----------------------------------------------------------------------------------


def _with_member(raw: bytes) -> Callable[[Answer, Call], Answer]:
    """Returns a change that adds a member with the value `raw` to the body. `raw` need not be valid JSON."""

    def change(good: Answer, _call: Call) -> Answer:
        rest = good.body.partition(b"{")[2]
        return replace(good, body=b'{"vendor":' + raw + b"," + rest)

    return change


def _truncated(good: Answer, _call: Call) -> Answer:
    return replace(good, body=good.body[: len(good.body) // 2])


def _with_wrong_type(good: Answer, _call: Call) -> Answer:
    return replace(good, content_type="text/plain; charset=utf-8")


def _of_another_task(good: Answer, call: Call) -> Answer:
    return replace(good, body=good.body.replace(call.task_id.encode(), b"task_someone_elses"))


def _with_nul(good: Answer, _call: Call) -> Answer:
    return replace(good, body=orjson.dumps(_nul_in(orjson.loads(good.body))))


def _nul_in(value: Any) -> Any:
    """Returns the value with a NUL after the first character of every text."""
    match value:
        case str():
            return f"{value[:1]}\0{value[1:]}" if value else value
        case dict():
            return {name: _nul_in(member) for name, member in value.items()}
        case list():
            return [_nul_in(member) for member in value]
        case _:
            return value


def _with_bom(good: Answer, _call: Call) -> Answer:
    return replace(good, body=b"\xef\xbb\xbf" + good.body)


def _with_key(_good: Answer, call: Call) -> Answer:
    return flat_error(500, "get_task_failed", f"upstream refused Authorization: Bearer {call.key}")


def _gzip_bomb(_good: Answer, _call: Call) -> Answer:
    return Answer(200, _gzip_bomb_bytes(), headers={"Content-Encoding": "gzip"})


@cache
def _gzip_bomb_bytes() -> bytes:
    """Returns a gzipped JSON record with 64 MiB of spaces. It is made at the first use, piece by piece."""
    compressor = zlib.compressobj(wbits=31)  # 31: with gzip's header
    pieces = [compressor.compress(b'{"task_id":"bomb",')]
    pieces += [compressor.compress(b" " * _MIB) for _ in range(64)]
    return b"".join([*pieces, compressor.compress(b'"status":"completed"}'), compressor.flush()])


_CHANGES: Mapping[FaultKind | GatewayFault, Callable[[Answer, Call], Answer]] = {
    FaultKind.TRUNCATED_JSON: _truncated,
    FaultKind.WRONG_CONTENT_TYPE: _with_wrong_type,
    FaultKind.WRONG_TASK: _of_another_task,
    FaultKind.HUGE_BODY: _with_member(b'"' + b"x" * (2 * _MIB) + b'"'),
    FaultKind.NUL_IN_STRINGS: _with_nul,
    FaultKind.BOM: _with_bom,
    FaultKind.NAN: _with_member(b"NaN"),
    FaultKind.HUGE_NUMBER: _with_member(b"9" * 400),
    FaultKind.LONE_SURROGATE: _with_member(rb'"\ud800"'),
    FaultKind.DEEP_JSON: _with_member(b"[" * 5000 + b"]" * 5000),
    FaultKind.ECHO_KEY: _with_key,
    FaultKind.GZIP_BOMB: _gzip_bomb,
}
