"""What the demo shows: lines as things happen and, on a terminal, a table of where every task stands."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bridge.cli.demo.tasks import DEMO_TASKS, DemoTask
from bridge.cli.receiver import Received
from bridge.cli.terminal import Line, Terminal, bar, printable

_TITLE_CELLS: Final = max(len(scene.prompt) for scene in DEMO_TASKS) + 2
_KIND_CELLS: Final = len("video.completed") + 2
_BAR_CELLS = 16
_STYLES: Final[Mapping[str, str]] = {
    "completed": "good",
    "failed": "bad",
    "timed_out": "doubtful",
    "unavailable": "doubtful",
    "queued": "dim",
    "unknown": "dim",
    "in_progress": "accent",
}


class Screen:
    """Lines and table; `since` gives the seconds since the demo began."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._tick, self._cross = ("\u2713", "\u2717") if terminal.unicode else ("ok", "no")

    @property
    def _wide(self) -> bool:
        return not self._terminal.live or self._terminal.width >= 100

    def opening(self, places: Sequence[tuple[str, str, str]]) -> None:
        """Who is there, and where."""
        say = self._terminal.say
        for name, url, what in places:
            say((f"{name:<15}", "bold"), (f"{url:<41}", "accent"), (what if self._wide else "", "dim"))
        say("")

    def registered(self, scene: DemoTask) -> None:
        """One watch is registered."""
        self._terminal.say(("watching  ", "dim"), f"{scene.prompt:<{_TITLE_CELLS}}", (scene.about, "dim"))

    def heard(self, at: float, scene: DemoTask | None, received: Received, *, answered: int) -> None:
        """One callback came in."""
        kind = str((received.event or {}).get("type", "no event"))
        outcome = kind.partition(".")[2]
        mark = (f"{self._tick} ", "good") if received.verified else (f"{self._cross} ", "bad")
        told = "verified" if received.verified else f"NOT VERIFIED: {received.reason}"
        if received.verified and self._wide:
            told += f" ({received.versions})"
        if answered >= 300:
            told += f", answered {answered}"
        elif received.times > 1:
            told += f", attempt {received.times}"
        self._terminal.say(
            (f"{at:5.1f} s  ", "dim"),
            mark,
            (f"{kind:<{_KIND_CELLS}}", _STYLES.get(outcome, "plain")),
            f"{scene.prompt if scene else '?':<{_TITLE_CELLS}}",
            told,
        )
        if detail := "so the bridge sends it again" if answered >= 300 else _detail(received):
            room = self._terminal.width - 11 if self._terminal.live else len(detail)
            self._terminal.say(" " * 11, (detail[:room], "dim"))

    def table(self, at: float, watches: Mapping[str, Mapping[str, Any]], verified: Mapping[str, int]) -> None:
        """Where every task stands now: by prompt, its watch as the API shows it and how many events were verified."""
        rows = [self._row(scene, watches.get(scene.prompt), verified.get(scene.prompt, 0)) for scene in DEMO_TASKS]
        ended = sum(1 for scene in DEMO_TASKS if verified.get(scene.prompt))
        below: Line = [(f"{at:5.1f} s", "bold"), (f"   {ended} of {len(DEMO_TASKS)} told", "dim")]
        self._terminal.draw([[""], *rows, below])

    def closing(self, *sentences: str) -> None:
        """The last lines: how it went, and what to do next."""
        self._terminal.say("")
        for sentence in sentences:
            self._terminal.say((sentence, "good"))
        self._terminal.say(("Next: amux-bridge serve --sandbox, or with your AMUX_API_KEY: amux-bridge serve", "dim"))

    def leave(self) -> None:
        """Give the terminal back."""
        self._terminal.leave()

    def _row(self, scene: DemoTask, watch: Mapping[str, Any] | None, verified: int) -> Line:
        status = "unknown" if watch is None else watch["outcome"] or watch["task"]["status"]
        progress = 0 if watch is None else watch["task"]["progress"] or 0
        style = _STYLES.get(status, "plain")
        drawn = bar(
            100 if status == "completed" else progress, _BAR_CELLS if self._wide else 6, unicode=self._terminal.unicode
        )
        polls = 0 if watch is None else watch["polls"]
        callback = (f"  {self._tick} told", "good") if verified else ("", "plain")
        return [
            (f"{scene.prompt:<{_TITLE_CELLS}}", "plain"),
            (drawn, style),
            (f"  {status.replace('_', ' '):<12}", style),
            (f"{polls:3d} polls" if self._wide else "", "dim"),
            callback,
        ]


def _detail(received: Received) -> str:
    """What the event says beyond its type: where the video is, or why there is none."""
    data = (received.event or {}).get("data")
    if not isinstance(data, dict):
        return ""
    if data.get("url"):
        return printable(str(data["url"]))
    error = data.get("error")
    return printable(str(error.get("message"))) if isinstance(error, dict) else ""
