"""The demo's output: a line for each thing that happens and, on a terminal, a table with the state of every task."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bridge.cli.demo.tasks import DEMO_TASKS, DemoTask
from bridge.cli.receiver import ReceivedCallback
from bridge.cli.terminal import Line, Terminal, bar, printable

_PROMPT_CELLS: Final = max(len(task.prompt) for task in DEMO_TASKS) + 2
_TYPE_CELLS: Final = len("video.completed") + 2
_BAR_CELLS = 16
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

    @property
    def _wide(self) -> bool:
        return not self._terminal.live or self._terminal.width >= 100

    def show_services(self, services: Sequence[tuple[str, str, str]]) -> None:
        """Prints the name, URL and purpose of each service."""
        print_line = self._terminal.print_line
        for name, url, purpose in services:
            print_line((f"{name:<15}", "bold"), (f"{url:<41}", "accent"), (purpose if self._wide else "", "dim"))
        print_line("")

    def show_registered(self, task: DemoTask) -> None:
        """Prints that the task's watch is registered."""
        self._terminal.print_line(("watching  ", "dim"), f"{task.prompt:<{_PROMPT_CELLS}}", (task.description, "dim"))

    def show_callback(self, at: float, task: DemoTask | None, callback: ReceivedCallback, *, status: int) -> None:
        """Prints one callback and how the receiver answered it."""
        event_type = str((callback.event or {}).get("type", "not an event"))
        outcome = event_type.partition(".")[2]
        mark = (f"{self._tick} ", "good") if callback.verified else (f"{self._cross} ", "bad")
        accepted = status < 300
        self._terminal.print_line(
            (f"{at:5.1f} s  ", "dim"),
            mark,
            (f"{event_type:<{_TYPE_CELLS}}", _STYLES.get(outcome, "plain")),
            f"{task.prompt if task else '?':<{_PROMPT_CELLS}}",
            self._result(callback, status),
        )
        if detail := _detail(callback) if accepted else "the bridge will send it again":
            room = self._terminal.width - _DETAIL_INDENT if self._terminal.live else len(detail)
            self._terminal.print_line(" " * _DETAIL_INDENT, (detail[:room], "dim"))

    def _result(self, callback: ReceivedCallback, status: int) -> str:
        """Whether the callback is verified and delivered, such as `verified (v1, v1a), delivered at attempt 2`."""
        verification = "verified" if callback.verified else f"NOT VERIFIED: {callback.reason}"
        if callback.verified and self._wide:
            verification += f" ({callback.versions})"
        if status >= 300:
            return f"{verification}, answered {status}"
        return f"{verification}, delivered" + (f" at attempt {callback.times}" if callback.times > 1 else "")

    def draw_table(self, at: float, watches: Mapping[str, Mapping[str, Any]], accepted: Mapping[str, int]) -> None:
        """Draws the state of every task.

        By prompt: `watches` are the watches as the API returns them, `accepted` the numbers of accepted events.
        """
        rows = [self._row(task, watches.get(task.prompt), accepted.get(task.prompt, 0)) for task in DEMO_TASKS]
        delivered = sum(1 for task in DEMO_TASKS if accepted.get(task.prompt))
        footer: Line = [(f"{at:5.1f} s", "bold"), (f"   {delivered} of {len(DEMO_TASKS)} delivered", "dim")]
        self._terminal.draw([[""], *rows, footer])

    def show_summary(self, *sentences: str) -> None:
        """Prints the result, and what to do next."""
        self._terminal.print_line("")
        for sentence in sentences:
            self._terminal.print_line((sentence, "good"))
        self._terminal.print_line(
            ("Next: amux-bridge serve --sandbox, or with your AMUX_API_KEY: amux-bridge serve", "dim")
        )

    def release(self) -> None:
        """Keeps the table on the screen and shows the cursor again."""
        self._terminal.release()

    def _row(self, task: DemoTask, watch: Mapping[str, Any] | None, accepted: int) -> Line:
        status = "unknown" if watch is None else watch["outcome"] or watch["task"]["status"]
        progress = 0 if watch is None else watch["task"]["progress"] or 0
        style = _STYLES.get(status, "plain")
        progress_bar = bar(
            100 if status == "completed" else progress, _BAR_CELLS if self._wide else 6, unicode=self._terminal.unicode
        )
        polls = 0 if watch is None else watch["polls"]
        callback = (f"  {self._tick} delivered", "good") if accepted else ("", "plain")
        return [
            (f"{task.prompt:<{_PROMPT_CELLS}}", "plain"),
            (progress_bar, style),
            (f"  {status.replace('_', ' '):<12}", style),
            (f"{polls:3d} polls" if self._wide else "", "dim"),
            callback,
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
