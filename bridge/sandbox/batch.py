"""The batch route `POST /suno/fetch`: its answers, and its counters for tests."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from bridge.sandbox.counting import Counts
from bridge.sandbox.faults import Answer, flat_error, json_answer, no_such_route, page
from bridge.sandbox.vendor_bodies import Body

MAX_BATCH_IDS = 32_000
"""The most ids in one request. SQLite takes 32,766 parameters in one statement. With more ids amux answers 500."""

_KEPT_CALLS = 1000


class BatchMode(StrEnum):
    """Which tasks the batch route finds, or what it answers instead."""

    PLATFORMS = "platforms"  # tasks with a platform; the others have no record and are missing
    ALL = "all"  # the others too, in form C as they are at that moment
    FILTERED = "filtered"  # nothing: a deployment that filters the route by its platform
    NOT_FOUND = "not_found"  # 404, as a deployment without the route
    HTML = "html"  # 200 and a page


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One request as it arrived, with the status of its answer."""

    ids: tuple[str, ...]
    key: str
    status: int


@dataclass(slots=True)
class Batches:
    """The requests of the batch route. `read` counts the records that it returned, by task id."""

    requests: int = 0
    ids: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    read: Counts = field(default_factory=Counts)
    calls: deque[BatchCall] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))
    """The newest 1,000 requests."""

    def note(self, call: BatchCall) -> None:
        """Counts a request whose answer is ready."""
        self.requests += 1
        self.ids += len(call.ids)
        self.statuses[call.status] += 1
        self.calls.append(call)


def read_ids(body: bytes) -> list[str] | None:
    """Returns the ids in a request's body; None if amux refuses the body. Ids that are not text match no task."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    ids = request.get("ids") if isinstance(request, dict) else None
    if not isinstance(ids, list | None) or not isinstance(request, dict):
        return None
    return [each for each in ids or () if isinstance(each, str)]


_INVALID = flat_error(400, "invalid_request", "json: cannot unmarshal the request")
_TOO_MANY = flat_error(500, "get_tasks_failed", "too many SQL variables")


def answer_without_route(mode: BatchMode) -> Answer | None:
    """Returns the answer of a deployment that has no batch route, or None if it has one."""
    match mode:
        case BatchMode.NOT_FOUND:
            return no_such_route("POST", "/suno/fetch")
        case BatchMode.HTML:
            return page("Amux", "Amux", by_amux=False)
        case _:
            return None


def answer_with_rows(ids: Sequence[str] | None, max_ids: int, row_of: Callable[[str], Body | None]) -> Answer:
    """Returns the answer for ids as `read_ids` returns them, in the order of amux's rows.

    `row_of` returns the row of a task, or None. Without any row `data` is null; without any id it is an empty list.
    """
    if ids is None:
        return _INVALID
    if len(ids) > max_ids:
        return _TOO_MANY
    rows = [row for each in dict.fromkeys(ids) if (row := row_of(each)) is not None]
    found = sorted(rows, key=lambda row: row["id"]) if rows or not ids else None
    return json_answer({"code": "success", "message": "", "data": found})
