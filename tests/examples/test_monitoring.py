"""The alert rules and the dashboard use metrics of the service, and docs/operations.md explains each alert."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bridge.core.model import Outcome
from bridge.telemetry import Metrics
from bridge.telemetry.metrics import ATTEMPT_RESULTS, BATCH_RESULTS, POLL_RESULTS, StuckReason
from tests.docs.harness import DOCS, section, table_rows, text
from tests.examples.harness import EXAMPLES, ROOT
from tests.log_events import log_events

ALERTS = EXAMPLES / "monitoring/alerts.yaml"
DASHBOARD = EXAMPLES / "monitoring/dashboard.json"
OPERATIONS = DOCS / "operations.md"
UNIT_TESTS = Path(__file__).with_name("alerts.test.yaml")
LABELS = {
    "amux_bridge_polls_total": ("result", set(POLL_RESULTS.values()) | set(BATCH_RESULTS)),
    "amux_bridge_attempts_total": ("result", set(ATTEMPT_RESULTS)),
    "amux_bridge_stuck_tasks": ("reason", {reason.value for reason in StuckReason}),
    "amux_bridge_settled_total": ("outcome", {outcome.value for outcome in Outcome}),
}
METRICS_OF_PROMETHEUS = {"up"}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> Iterator[str]:
    """Yields every expression of the alert rules and of the dashboard."""
    for rule in rules():
        yield rule["expr"]
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:amux_bridge_|process_)\w+|\bup\b", expression))


def sample_names() -> set[str]:
    """Returns the names of all samples that a bridge can have, also of metrics that have no sample yet."""
    metrics = Metrics()
    with_labels = {f"amux_bridge_store_seconds_{end}" for end in ("bucket", "sum", "count")}
    lines = metrics.render().decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")} | with_labels


def test_every_metric_in_an_expression_exists() -> None:
    used = {name for expression in expressions() for name in metrics_in(expression)}
    assert used - METRICS_OF_PROMETHEUS <= sample_names()
    assert len(used) > 15


def test_the_dashboard_shows_every_metric_of_the_service() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in metrics_in(target["expr"])}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in sample_names() if name.startswith("amux_bridge_")}
    assert families == {re.sub(r"_bucket$", "", name) for name in shown if name.startswith("amux_bridge_")}


def test_the_duration_of_database_work_has_a_label_for_its_kind() -> None:
    metrics = Metrics()
    metrics.store_seconds.labels("any").observe(0.1)
    assert 'amux_bridge_store_seconds_bucket{le="0.1",unit="any"} 1.0' in metrics.render().decode()


def test_every_label_in_an_expression_can_have_its_value() -> None:
    matched = [
        (name, label, value)
        for expression in expressions()
        for name, matchers in re.findall(r"\b(amux_bridge_\w+)\{([^}]*)\}", expression)
        for label, value in re.findall(r'(\w+)!?="([^"]*)"', matchers)
    ]
    assert len(matched) >= 5
    for name, label, value in matched:
        allowed_label, values = LABELS[name]
        assert label == allowed_label
        assert value in values


def test_the_operations_page_has_a_heading_for_each_alert_with_what_to_do() -> None:
    alerts = section(OPERATIONS, "## Alerts")
    explained = re.findall(
        r"^### (AmuxBridge\w+)\n\n(.+?)\n\n\*\*Do:\*\* (.+?)(?=\n\n|\Z)", alerts, re.MULTILINE | re.DOTALL
    )
    assert [name for name, _, _ in explained] == [rule["alert"] for rule in rules()]
    assert alerts.count("### ") == len(explained)
    assert all(rule["labels"]["severity"] in {"critical", "warning"} for rule in rules())


def test_each_alert_links_its_heading_in_the_operations_page() -> None:
    headings = re.findall(r"^#+ (.+)$", text(OPERATIONS), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert ROOT / page == OPERATIONS
        assert anchor == rule["alert"].lower()
        assert anchor in anchors


def test_the_command_in_the_alert_rules_makes_each_runbook_url_a_link(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path / ALERTS.name)
    [command] = re.findall(r"^#   (sed .*)$", text(ALERTS), re.MULTILINE)
    subprocess.run(["/bin/sh", "-ec", command], cwd=tmp_path, check=True)
    changed = yaml.safe_load((tmp_path / ALERTS.name).read_text())["groups"][0]["rules"]
    links = [rule["annotations"]["runbook_url"] for rule in changed]
    place = "https://git.example.com/tools/amux-bridge/-/blob/main/"
    assert links == [place + rule["annotations"]["runbook_url"] for rule in rules()]


def test_the_operations_page_names_only_metrics_and_log_events_that_exist() -> None:
    assert len(named := metrics_in(text(OPERATIONS))) > 5
    assert named - METRICS_OF_PROMETHEUS <= sample_names()
    rows = table_rows(section(OPERATIONS, "## Where to see a problem"))
    events = {word for row in rows for word in re.findall(r"`(\w+)`", row[3])}
    events |= set(re.findall(r"Search the log for `(\w+)`", text(OPERATIONS)))
    assert len(events) > 5
    assert events <= log_events()


def test_the_panels_do_not_overlap_and_have_descriptions() -> None:
    used_cells: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & used_cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["description"]
        used_cells |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


# --- with promtool --------------------------------------------------------------------------------------


def run(tool: str, *arguments: str, folder: Path) -> None:
    done = subprocess.run(
        [tool, *arguments], cwd=folder, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_name_of_every_metric(promtool: str) -> None:
    metrics = Metrics()
    metrics.store_seconds.labels("any").observe(0.1)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_promtool_accepts_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", str(ALERTS), folder=ROOT)


def test_the_rules_raise_their_alerts_when_they_should(promtool: str, tmp_path: Path) -> None:
    for file in (ALERTS, UNIT_TESTS):
        shutil.copy(file, tmp_path)
    run(promtool, "test", "rules", UNIT_TESTS.name, folder=tmp_path)


def test_promtool_accepts_the_expressions_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    # promtool parses only rules. So each expression becomes a recording rule with a value for Grafana's variable.
    made = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    run(promtool, "check", "rules", "panels.yaml", folder=tmp_path)
