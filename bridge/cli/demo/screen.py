"""The demo's output: a line for each thing that happens and, on a terminal, a table with the state of every task."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bridge.cli.demo.tasks import DEMO_TASKS, DemoTask
from bridge.cli.receiver import ReceivedCallback
from bridge.cli.terminal import Line, Terminal, bar, printable, shortened
from bridge.cli.typed_command import typed_command

_PROMPT_CELLS: Final = max(len(task.prompt) for task in DEMO_TASKS) + 2
_TYPE_CELLS: Final = len("video.completed") + 2
_BAR_CELLS, _SHORT_BAR_CELLS = 16, 6
_MEDIUM_ROW = _PROMPT_CELLS + _SHORT_BAR_CELLS + 14 + len("  ok delivered")  # columns of a row with a short bar
_WIDE_ROW = _MEDIUM_ROW + _BAR_CELLS - _SHORT_BAR_CELLS + len("100 polls")
_SHORT_WORDS: Final[Mapping[str, str]] = {"in_progress": "running"}
_DETAIL_INDENT = 11  # the detail line starts below the event's type
_STYLES: Final[Mapping[str, str]] = {
    "completed": "good",
    "failed": "bad",
    "timed_out": "warning",
    "unavailable": "warning",
    "queued": "dim",
    "unknown": "dim",
    "in_progress": "accent",
}


class Screen:
    """Prints lines and the table. Times are seconds since the first task was created."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._tick, self._cross = ("\u2713", "\u2717") if terminal.unicode else ("ok", "no")

    def show_services(self, services: Sequence[tuple[str, str, str]]) -> None:
        """Prints the name, URL and purpose of each service."""
        for name, url, purpose in services:
            line = ((f"{name:<15}", "bold"), (f"{url:<41}", "accent"))
            fits = not self._terminal.live or 56 + len(purpose) <= self._terminal.width
            self._terminal.print_wrapped(*line, (purpose if fits else "", "dim"), indent=2)
        self._terminal.print_line("")

    def show_registered(self, task: DemoTask) -> None:
        """Prints that the task's watch is registered."""
        prompt = f"{task.prompt:<{_PROMPT_CELLS}}"
        self._terminal.print_wrapped(("watching  ", "dim"), prompt, (task.description, "dim"), indent=10)

    def show_callback(self, at: float, task: DemoTask | None, callback: ReceivedCallback, *, status: int) -> None:
        """Prints one callback and how the receiver answered it."""
        event_type = str((callback.event or {}).get("type", "not an event"))
        outcome = event_type.partition(".")[2]
        accepted = callback.verified and status < 300
        mark = (f"{self._tick} ", "good") if accepted else (f"{self._cross} ", "bad")
        prompt, result = task.prompt if task else "?", self._result(callback, status)
        head = ((f"{at:5.1f} s  ", "dim"), mark, (f"{event_type:<{_TYPE_CELLS}}", _STYLES.get(outcome, "plain")))
        result_style = "plain" if accepted else "bad"
        length = _DETAIL_INDENT + _TYPE_CELLS + _PROMPT_CELLS + len(result)
        if not self._terminal.live or length <= self._terminal.width:
            self._terminal.print_line(*head, f"{prompt:<{_PROMPT_CELLS}}", (result, result_style))
        else:
            fits = _DETAIL_INDENT + _TYPE_CELLS + len(prompt) <= self._terminal.width
            self._terminal.print_wrapped(*head, prompt if fits else "")
            if not fits:
                self._print_detail(prompt, "plain")
            self._print_detail(result, result_style)
        if detail := _detail(callback) if accepted else "the bridge will send it again":
            self._print_detail(detail, "dim")

    def _print_detail(self, text: str, style: str) -> None:
        """Prints a text below an event's type. Of a URL that is too long, the middle is left out."""
        room = self._terminal.width - _DETAIL_INDENT
        if self._terminal.live:
            text = " ".join(shortened(word, room) for word in text.split(" "))
        self._terminal.print_wrapped(" " * _DETAIL_INDENT, (text, style), indent=_DETAIL_INDENT)

    def _result(self, callback: ReceivedCallback, status: int) -> str:
        """Returns the result of a callback as a text, such as `verified (v1, v1a), delivered at attempt 2`."""
        verification = "verified" if callback.verified else f"NOT VERIFIED: {callback.reason}"
        if callback.verified:
            verification += f" ({callback.versions})"
        if status >= 300:
            return f"{verification}, failed: answered {status}"
        return f"{verification}, delivered" + (f" at attempt {callback.times}" if callback.times > 1 else "")

    def draw_table(self, at: float, watches: Mapping[str, Mapping[str, Any]], accepted: Mapping[str, int]) -> None:
        """Draws the state of every task.

        `watches` are the watches as the API returns them, `accepted` the numbers of accepted events, both by prompt.
        """
        rows = [self._row(task, watches.get(task.prompt), accepted.get(task.prompt, 0)) for task in DEMO_TASKS]
        delivered = sum(1 for task in DEMO_TASKS if accepted.get(task.prompt))
        footer: Line = [(f"{at:5.1f} s", "bold"), (f"   {delivered} of {len(DEMO_TASKS)} delivered", "dim")]
        self._terminal.draw([[""], *rows, footer])

    def show_summary(self, *sentences: str) -> None:
        """Prints the result and a next command, which is on a line of its own so that it can be copied."""
        print_wrapped, command = self._terminal.print_wrapped, typed_command()
        self._terminal.print_line("")
        for sentence in sentences:
            print_wrapped((sentence, "good"))
        print_wrapped(("Next, run a bridge with the stand-in for amux:", "dim"))
        self._terminal.print_line(("  " + command + " serve --sandbox", "bold"))
        print_wrapped(("To use amux itself, set AMUX_API_KEY and omit --sandbox.", "dim"))

    def release(self) -> None:
        """Keeps the table on the screen and shows the cursor again."""
        self._terminal.release()

    def _row(self, task: DemoTask, watch: Mapping[str, Any] | None, accepted: int) -> Line:
        status = "unknown" if watch is None else watch["outcome"] or watch["task"]["status"]
        style = _STYLES.get(status, "plain")
        width = self._terminal.width
        if width < _MEDIUM_ROW:
            word = "delivered" if accepted else _SHORT_WORDS.get(status, status.replace("_", " "))
            room = width - len("delivered") - 1
            return [f"{shortened(task.prompt, room):<{room}} ", (word, "good" if accepted else style)]
        progress = 0 if watch is None else watch["task"]["progress"] or 0
        wide = width >= _WIDE_ROW
        cells = _BAR_CELLS if wide else _SHORT_BAR_CELLS
        polls = 0 if watch is None else watch["polls"]
        return [
            f"{task.prompt:<{_PROMPT_CELLS}}",
            (bar(100 if status == "completed" else progress, cells, unicode=self._terminal.unicode), style),
            (f"  {status.replace('_', ' '):<12}", style),
            (f"{polls:3d} polls" if wide else "", "dim"),
            (f"  {self._tick} delivered" if accepted else "", "good"),
        ]


def _detail(callback: ReceivedCallback) -> str:
    """Returns the video's URL, or the reason why there is no video."""
    data = (callback.event or {}).get("data")
    if not isinstance(data, dict):
        return ""
    if data.get("url"):
        return printable(str(data["url"]))
    error = data.get("error")
    return printable(str(error.get("message"))) if isinstance(error, dict) else ""
