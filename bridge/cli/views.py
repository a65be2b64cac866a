"""Formats watches, deliveries and attempts for people, as pairs of a name and a line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from bridge.cli.terminal import Line, Terminal, printable

Json: TypeAlias = Mapping[str, Any]
Pair: TypeAlias = tuple[str, Line]

STYLES: Final[Json] = {
    "completed": "good",
    "delivered": "good",
    "failed": "bad",
    "dead": "bad",
    "unavailable": "bad",
    "timed_out": "warning",
    "cancelled": "dim",
}


def status(watch: Json) -> str:
    """Returns one word: how the watch ended, or else the status of its task."""
    return str(watch["outcome"] or (watch["state"] if watch["state"] == "cancelled" else watch["task"]["status"]))


def deliveries_in_short(watch: Json) -> str:
    """Returns the worst state of the watch's deliveries; `-` if there is none."""
    states = {delivery["state"] for delivery in watch["deliveries"]}
    return next((state for state in ("dead", "pending", "delivered") if state in states), "-")


def print_pairs(terminal: Terminal, pairs: Sequence[Pair]) -> None:
    """Prints one line for each pair, with the names in one column."""
    width = max(len(name) for name, _ in pairs)
    for name, line in pairs:
        terminal.print_line((name.ljust(width), "dim"), "  ", *line)


def watch_pairs(watch: Json) -> Iterator[Pair]:
    """Yields what is shown of a watch, as pairs of a name and a line.

    The query of the callback URL is not shown, because it may contain a secret.
    """
    word, task = status(watch), watch["task"]
    yield "watch", [watch["id"], "  ", (word, STYLES.get(word, "accent")), f"  (app {printable(watch['app'])})"]
    yield "task", [printable(watch["task_id"]), f"  {_task_in_short(task)}"]
    yield "callback", [printable(_with_hidden_query(watch["callback_url"]))]
    yield from _optional("video", task["url"])
    yield from _optional("error", _error(task["error"]))
    yield "registered", [watch["created_at"]]
    if watch["state"] == "active":
        yield "times out", [watch["deadline_at"]]
        yield "polls", [f"{watch['polls']}, the next at {watch['next_poll_at']}"]
        yield from _optional("last error", _error(watch["last_error"]))
    else:
        yield from _optional("settled", watch["settled_at"])
        yield "polls", [str(watch["polls"])]
    for delivery in watch["deliveries"]:
        yield "delivery", [delivery["id"], "  ", *_delivery_line(delivery)]


def delivery_pairs(delivery: Json) -> Iterator[Pair]:
    """Yields the pairs of a delivery and of each of its attempts."""
    yield "delivery", [delivery["id"], "  ", *_delivery_line(delivery)]
    yield "watch", [delivery["watch_id"]]
    for number, attempt in enumerate(delivery["attempt_log"], 1):
        answer = "no answer" if attempt["status_code"] is None else str(attempt["status_code"])
        reason = _error(attempt["error"])
        line = f"{attempt['started_at']}  {answer} in {attempt['duration_seconds']:.3f} s"
        yield f"attempt {number}", [line, ("" if reason is None else f"  {reason}", "bad")]


def _task_in_short(task: Json) -> str:
    progress = "" if task["progress"] is None else f" {task['progress']} %"
    model = "" if task["model"] is None else f", {printable(str(task['model']))}"
    return f"{task['status']}{progress}{model}"


def _delivery_line(delivery: Json) -> Line:
    attempts = f"{delivery['attempts']} attempt{'' if delivery['attempts'] == 1 else 's'}"
    match delivery["state"]:
        case "delivered":
            rest = f"at {delivery['delivered_at']}, {attempts}"
        case "pending":
            rest = f"{attempts}, the next at {delivery['next_attempt_at']}"
        case _:
            rest = attempts
    reason = None if delivery["state"] == "delivered" else _error(delivery["last_error"])
    state = str(delivery["state"])
    return [f"{delivery['type']}  ", (state, STYLES.get(state, "accent")), f"  {rest}", f": {reason}" if reason else ""]


def _optional(name: str, text: str | None) -> Iterator[Pair]:
    if text:
        yield name, [printable(text)]


def _error(error: Json | None) -> str | None:
    """Returns an error's message, or its code if there is no message; None for None."""
    if error is None:
        return None
    return printable(str(error["message"] or error["code"] or "no message"))


def _with_hidden_query(url: str) -> str:
    path, mark, _ = url.partition("?")
    return f"{path}?..." if mark else path
