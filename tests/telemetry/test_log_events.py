"""Log events: tests wait only for events that the bridge logs, and every warning says what it means."""

import re
from pathlib import Path

from tests.log_events import log_events, warnings_without_means

TESTS = Path(__file__).parents[1]
EVENTS_OF_THE_LAUNCHER = {"refused"}  # tests/e2e/launch.py prints them as lines of the log


def test_every_log_event_that_a_test_waits_for_or_counts_exists() -> None:
    calls = re.compile(r'(?:log_lines|wait_for_log)\(\s*"(\w+)"')
    named = {name for path in TESTS.rglob("*.py") for name in calls.findall(path.read_text())}
    assert len(named) > 10
    assert named - log_events() - EVENTS_OF_THE_LAUNCHER == set()


def test_every_warning_and_error_says_what_it_means_for_the_watches() -> None:
    [settings] = warnings_without_means()
    assert settings.startswith("service/process.py")  # the event `caution`: its field `what` says so
