"""The alert rules and the dashboard speak of metrics that the service has, and each alert is explained to operators."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.core.model import Outcome
from bridge.polling.state import CredentialChange
from bridge.telemetry import Metrics
from bridge.telemetry.metrics import ATTEMPT_RESULTS, POLL_RESULTS, STUCK_REASONS
from tests.examples.harness import EXAMPLES, ROOT
from tests.programs import program

ALERTS = EXAMPLES / "monitoring/alerts.yaml"
DASHBOARD = EXAMPLES / "monitoring/dashboard.json"
UNIT_TESTS = Path(__file__).with_name("alerts.test.yaml")
LABELS = {
    "amux_bridge_polls_total": ("result", set(POLL_RESULTS.values())),
    "amux_bridge_attempts_total": ("result", set(ATTEMPT_RESULTS)),
    "amux_bridge_stuck_tasks": ("reason", set(STUCK_REASONS)),
    "amux_bridge_settled_total": ("outcome", {outcome.value for outcome in Outcome}),
}
OF_PROMETHEUS = {"up"}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def questions() -> Iterator[str]:
    """Every expression of either file."""
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def names_in(question: str) -> set[str]:
    return set(re.findall(r"\b(?:amux_bridge_|process_)\w+|\bup\b", question))


def served() -> set[str]:
    """The name of every sample that the service can tell, labels with no sample yet included."""
    metrics = Metrics()
    with_labels = {f"amux_bridge_store_seconds_{end}" for end in ("bucket", "sum", "count")}
    lines = metrics.render().decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")} | with_labels


def test_every_metric_that_they_ask_for_is_the_services() -> None:
    asked = {name for question in questions() for name in names_in(question)}
    assert asked - OF_PROMETHEUS <= served()
    assert len(asked) > 15


def test_every_metric_of_the_service_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in names_in(target["expr"])}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in served() if name.startswith("amux_bridge_")}
    assert families == {re.sub(r"_bucket$", "", name) for name in shown if name.startswith("amux_bridge_")}


def test_the_store_tells_its_seconds_by_unit() -> None:
    metrics = Metrics()
    metrics.store_seconds.labels("any").observe(0.1)
    assert 'amux_bridge_store_seconds_bucket{le="0.1",unit="any"} 1.0' in metrics.render().decode()


def test_every_label_that_they_choose_by_has_that_value() -> None:
    chosen = [
        (name, label, value)
        for question in questions()
        for name, matchers in re.findall(r"\b(amux_bridge_\w+)\{([^}]*)\}", question)
        for label, value in re.findall(r'(\w+)!?="([^"]*)"', matchers)
    ]
    assert len(chosen) >= 5
    for name, label, value in chosen:
        wanted, values = LABELS[name]
        assert label == wanted
        assert value in values


def test_each_alert_is_told_in_the_readme_with_what_to_do() -> None:
    section = (ROOT / "README.md").read_text().partition("## When an alert fires")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(AmuxBridge\w+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert [name for name, _, _ in told] == [rule["alert"] for rule in rules()]
    assert all(rule["labels"]["severity"] in {"critical", "warning"} for rule in rules())


def test_the_readme_speaks_of_metrics_and_of_log_events_that_there_are() -> None:
    section = (ROOT / "README.md").read_text().partition("## When an alert fires")[2].partition("\n## ")[0]
    assert len(named := names_in(section)) > 5
    assert named - OF_PROMETHEUS <= served()
    rows = section.partition("| trouble |")[2].partition("\n\n")[0].splitlines()[2:]
    events = {word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[4])}
    source = "".join(path.read_text() for path in (ROOT / "bridge").rglob("*.py"))
    logged = set(re.findall(r"_log\.event\(\s*f?\"(\w+)", source))
    logged |= {f"credential_{verdict.value}" for verdict in CredentialChange}
    logged |= {event for pair in re.findall(r"OutageLog\(\s*_log,\s*\"(\w+)\",\s*\"(\w+)\"", source) for event in pair}
    assert len(events) > 5
    assert events <= logged


def test_the_panels_lie_beside_one_another_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["description"]
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


# --- by Prometheus' own tool --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def promtool() -> str:
    return program("promtool", "prometheus")


def run(tool: str, *arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [tool, *arguments], cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_every_metric_named_as_it_should_be(promtool: str) -> None:
    metrics = Metrics()
    metrics.store_seconds.labels("any").observe(0.1)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_promtool_takes_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", str(ALERTS), folder=ROOT)


def test_the_rules_fire_when_they_should_and_not_before(promtool: str, tmp_path: Path) -> None:
    for file in (ALERTS, UNIT_TESTS):
        shutil.copy(file, tmp_path)
    run(promtool, "test", "rules", UNIT_TESTS.name, folder=tmp_path)


def test_promtool_can_read_what_the_dashboard_asks(promtool: str, tmp_path: Path) -> None:
    # As recording rules, with Grafana's variables in place: promtool parses rules.
    made = [
        {"record": f"panel:{number}", "expr": question.replace("$__rate_interval", "1m")}
        for number, question in enumerate(questions())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    run(promtool, "check", "rules", "panels.yaml", folder=tmp_path)
