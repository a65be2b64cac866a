"""How amux reads the answers of each vendor: one `Vendor` for each platform. Pure.

The rules follow the adaptors of amux's source (`relay/channel/task/`). A new platform is one more line of `VENDORS`,
with its bodies in `vendor_bodies.py`. Jimeng (51) is left out: its only word for a running task makes amux fail it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bridge.sandbox import vendor_bodies as bodies
from bridge.sandbox.behaviour import Platform, VendorAnswer
from bridge.sandbox.forms import TaskPhase, TaskView
from bridge.sandbox.vendor_bodies import BUSY, Body


@dataclass(frozen=True, slots=True)
class Reply:
    """The values that amux reads in one answer of a vendor. A text is empty if the answer does not have the value."""

    body: Body
    status: str
    progress: str = ""
    reason: str = ""
    url: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Vendor:
    """One platform. `error` and `soft_failure` return None if amux cannot read the answer and keeps its record."""

    created: Callable[[TaskView], Body]
    """The `data` of a record before the first request to the vendor."""
    read: Callable[[TaskView], Reply]
    error: Callable[[TaskView], Reply | None]
    soft_failure: Callable[[TaskView], Reply | None]
    forgotten: Callable[[TaskView], Reply | None]
    live: bool = False
    action: str = "textGenerate"

    def reply(self, view: TaskView, answer: VendorAnswer, *, forgotten: bool) -> Reply | None:
        """Returns what amux reads in an answer, or None if it reads nothing."""
        match answer:
            case VendorAnswer.GOOD:
                return self.forgotten(view) if forgotten else self.read(view)
            case VendorAnswer.SOFT_FAILURE:
                return self.soft_failure(view)
            case VendorAnswer.ERROR:
                return self.error(view)
            case VendorAnswer.UNREACHABLE:
                return None


_P = TaskPhase
_ENDS = (_P.SUCCEEDED, _P.FAILED, _P.CANCELLED, _P.EXPIRED)


def _statuses(queued: str, running: str, *ends: str) -> Mapping[TaskPhase, str]:
    """Returns amux's word for each phase. Without `ends`, cancelled and expired tasks have the word for a failure."""
    return {_P.QUEUED: queued, _P.RUNNING: running} | dict(
        zip(_ENDS, ends or ("SUCCESS", "FAILURE", "FAILURE", "FAILURE"), strict=True)
    )


def _unreadable(_view: TaskView) -> None:
    """Returns None: amux cannot read the answer."""


_PLAIN = _statuses("SUBMITTED", "IN_PROGRESS")
_QUEUED = _statuses("QUEUED", "IN_PROGRESS")


def _sora(view: TaskView) -> Reply:
    behaviour = view.task.behaviour
    reasons = {
        _P.FAILED: behaviour.error_message,
        _P.CANCELLED: "task failed",
        _P.EXPIRED: "upstream returned unrecognized message",
    }
    progress = f"{view.progress}%" if 0 < view.progress < 100 else ""
    return Reply(bodies.sora(view), _QUEUED[view.phase], progress, reasons.get(view.phase, ""))


def _sora_error(view: TaskView) -> Reply:
    return Reply(bodies.error_body(view), "FAILURE", reason="upstream returned error")


def _kling(view: TaskView) -> Reply:
    reason = view.task.behaviour.error_message if view.failed else ""
    return Reply(bodies.kling(view), _PLAIN[view.phase], reason=reason, url=view.url or "")


def _vidu(view: TaskView) -> Reply:
    reason = str(view.task.behaviour.error_code) if view.failed else ""
    return Reply(bodies.vidu(view), _PLAIN[view.phase], reason=reason, url=view.url or "")


_DOUBAO = _statuses("QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE", "IN_PROGRESS", "IN_PROGRESS")
_DOUBAO_PROGRESS = dict(zip(TaskPhase, ("10%", "50%", "100%", "100%", "30%", "30%"), strict=True))


def _doubao(view: TaskView) -> Reply:
    reason = view.task.behaviour.error_message if view.phase is _P.FAILED else ""
    return Reply(
        bodies.doubao(view),
        _DOUBAO[view.phase],
        _DOUBAO_PROGRESS[view.phase],
        reason,
        view.url or "",
        bodies.USAGE["total_tokens"] if view.url else 0,
    )


def _doubao_error(view: TaskView) -> Reply:
    """Returns the reply for an answer without a status: amux treats the task as running."""
    return Reply(bodies.error_body(view), "IN_PROGRESS", "30%")


def _doubao_soft_failure(view: TaskView) -> Reply:
    return Reply(bodies.doubao_soft_failure(view), "FAILURE", "100%", f"code 429: {BUSY}")


_GOOGLE = _statuses("IN_PROGRESS", "IN_PROGRESS")


def _google_reply(view: TaskView, body: Body, url: str = "") -> Reply:
    reason = view.task.behaviour.error_message if view.failed else ""
    progress = "100%" if view.phase in _ENDS else "50%"
    return Reply(body, _GOOGLE[view.phase], progress, reason, url)


def _gemini(view: TaskView) -> Reply:
    return _google_reply(view, bodies.gemini(view))


def _vertex(view: TaskView) -> Reply:
    inside = view.phase is _P.SUCCEEDED and view.task.behaviour.vendor_gives_url
    return _google_reply(view, bodies.vertex(view), "data:video/mp4;base64," if inside else "")


def _google_error(view: TaskView) -> Reply:
    return Reply(bodies.google_error(view), "FAILURE", "100%", BUSY)


def _google_forgotten(view: TaskView) -> Reply:
    """Returns the reply for an operation without `done`: amux treats the task as running."""
    return Reply({"name": bodies.google(view)["name"]}, "IN_PROGRESS", "50%")


def _ali(view: TaskView) -> Reply:
    behaviour = view.task.behaviour
    reason = "task failed" if view.failed else ""
    if view.phase is _P.FAILED:
        reason = f"task failed, code: {behaviour.error_code} , message: {behaviour.error_message}"
    return Reply(bodies.ali(view), _QUEUED[view.phase], reason=reason, url=view.url or "")


def _ali_error(view: TaskView) -> Reply:
    """Returns the reply for an answer without a status: amux treats the task as queued."""
    return Reply(bodies.ali_error(view), "QUEUED")


def _minimax(view: TaskView) -> Reply:
    reason = view.task.behaviour.error_message if view.failed else ""
    progress = {_P.QUEUED: "30%", _P.RUNNING: "50%"}.get(view.phase, "100%")
    return Reply(bodies.minimax(view), _GOOGLE[view.phase], progress, reason, view.url or "")


def _minimax_error(view: TaskView) -> Reply:
    """Returns the reply for an answer without a status: amux treats the task as running."""
    return Reply(bodies.minimax_error(view), "IN_PROGRESS", "30%")


def _recorded(
    created: Callable[[TaskView], Body],
    read: Callable[[TaskView], Reply],
    error: Callable[[TaskView], Reply | None] = _unreadable,
) -> Vendor:
    """Returns a recorded platform. Its vendor has no soft failure: the refusal of one request is an `error`."""
    return Vendor(created, read, error, error, error)


VENDORS: Mapping[Platform, Vendor] = {
    Platform.ALI: _recorded(bodies.ali_created, _ali, _ali_error),
    Platform.GEMINI: Vendor(bodies.google, _gemini, _google_error, _google_error, _google_forgotten, live=True),
    Platform.MINIMAX: _recorded(bodies.minimax_created, _minimax, _minimax_error),
    Platform.VERTEX: Vendor(bodies.google, _vertex, _google_error, _google_error, _google_forgotten, live=True),
    Platform.KLING: _recorded(bodies.kling, _kling),
    Platform.VIDU: _recorded(bodies.vidu_created, _vidu),
    Platform.DOUBAO: Vendor(
        lambda view: {"id": bodies.vendor_id(view)},
        _doubao,
        _doubao_error,
        _doubao_soft_failure,
        _doubao_error,
        live=True,
        action="generate",
    ),
    Platform.SORA: _recorded(bodies.sora, _sora, _sora_error),
}
