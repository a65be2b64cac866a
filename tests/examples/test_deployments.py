"""The examples for container engines, Kubernetes and systemd have valid schemas, settings and commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.fernet import Fernet

from bridge.cli.parser import build_parser
from bridge.settings.settings import load, unknown_names
from tests.examples.harness import EXAMPLES, SECRET

COMPOSE, KUBERNETES = EXAMPLES / "compose", EXAMPLES / "kubernetes"
UNIT = EXAMPLES / "systemd/amux-bridge.service"
IMAGE = {"BRIDGE_HOST": "0.0.0.0", "BRIDGE_PORT": "8080", "BRIDGE_DATABASE_URL": "sqlite:////data/bridge.db"}  # noqa: S104
# What an operator provides for an example: a .env file, or a Kubernetes secret.
PROVIDED = {
    "AMUX_API_KEY": "sk-example",
    "BRIDGE_TOKENS": "shop:shop-token-1",
    "BRIDGE_OPERATOR_TOKENS": "ops:ops-token-1",
    "BRIDGE_SIGNING_SECRETS": SECRET.text,
    "BRIDGE_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    "POSTGRES_PASSWORD": "abc123",
}


def settings_of(monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> Any:
    """Returns the settings that a bridge in the image reads from this environment. Every name must be a setting."""
    for name in [name for name in os.environ if name.startswith(("BRIDGE_", "AMUX_"))]:
        monkeypatch.delenv(name)
    for name, value in {**IMAGE, **environ}.items():
        monkeypatch.setenv(name, value)
    assert unknown_names(environ, None) == []
    return load(env_file=None)


# --- compose ------------------------------------------------------------------------------------------------------


def compose(name: str) -> Any:
    """Returns a Compose file with its variables replaced by their values."""

    def fill(match: re.Match[str]) -> str:
        return PROVIDED.get(match[1]) or match[2] or pytest.fail(f"{match[1]} is not provided by an operator")

    text = re.sub(r"(?<!\$)\$\{(\w+)(?::\?|:-([^}]*))?\}", fill, (COMPOSE / name).read_text())
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", ["compose.yaml", "replicas.yaml"])
def test_the_bridges_of_a_compose_file_are_hardened_and_have_valid_settings(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = compose(name)["services"]
    bridges = [it for it in services.values() if it.get("image") == "amux-bridge" and "environment" in it]
    assert len(bridges) == (2 if name == "replicas.yaml" else 1)
    for service in bridges:
        settings = settings_of(monkeypatch, service["environment"])
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert float(service["stop_grace_period"].removesuffix("s")) > settings.drain_timeout_seconds
        # The build context exists.
        assert (COMPOSE / service["build"] / "Dockerfile").is_file()
    for service in services.values():
        for other in service.get("depends_on", []):
            assert other in services


def test_the_app_and_the_sidecar_of_compose_reach_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose("compose.yaml")["services"]
    bridge, app, amux = services["bridge"], services["app"], services["amux"]
    settings = settings_of(monkeypatch, bridge["environment"])
    assert app["network_mode"] == "service:bridge"
    assert app["environment"]["BRIDGE_URL"] == f"http://{settings.host[0]}:{settings.port}"
    assert app["environment"]["WEBHOOK_SECRET"] == settings.signing_secrets[0].text
    given = build_parser().parse_args(amux["command"])
    assert app["environment"]["AMUX_BASE_URL"] == settings.amux_base_url == f"http://amux:{given.port}"
    recipe = app["build"]["dockerfile_inline"]
    [copied] = re.findall(r"^COPY (\S+) ", recipe, re.MULTILINE)
    example = COMPOSE / app["build"]["context"] / copied
    assert f"install --no-cache-dir {re.findall('^pip install (.*)$', example.read_text(), re.MULTILINE)[0]}" in recipe


def test_the_load_balancer_of_compose_has_each_replica() -> None:
    made = compose("replicas.yaml")
    proxied = set(re.findall(r"server (\S+):8080", made["configs"]["nginx"]["content"]))
    assert proxied == {name for name, it in made["services"].items() if it["image"] == "amux-bridge"}


def has_docker_compose() -> bool:
    return (
        shutil.which("docker") is not None
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("name", ["compose.yaml", "replicas.yaml"])
def test_docker_compose_accepts_the_file(name: str) -> None:
    if not has_docker_compose():
        pytest.skip("docker compose is not installed")
    command = ["docker", "compose", "--file", str(COMPOSE / name), "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **PROVIDED}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- Kubernetes ---------------------------------------------------------------------------------------------------


def documents_in(name: str) -> list[Any]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def pods() -> Iterator[tuple[str, Any]]:
    for name in ("sidecar.yaml", "replicas.yaml"):
        [deployment] = [it for it in documents_in(name) if it["kind"] == "Deployment"]
        yield name, deployment["spec"]["template"]["spec"]


def bridge_of(pod: Any) -> Any:
    [found] = [it for it in [*pod.get("initContainers", []), *pod["containers"]] if it["name"] == "amux-bridge"]
    return found


@pytest.mark.parametrize("name", ["sidecar.yaml", "replicas.yaml"])
@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])  # 1.29: native sidecars
def test_kubernetes_accepts_every_field(name: str, version: str) -> None:
    found = documents_in(name)
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)
    assert {"Deployment", "NetworkPolicy"} <= {it["kind"] for it in found}


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_a_bridge_in_a_pod_is_hardened_and_has_valid_settings(
    name: str, pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = bridge_of(pod)
    environ = {it["name"]: it["value"] for it in bridge["env"]}
    names = re.findall(r"--from-literal=(\w+)=", (KUBERNETES / name).read_text())
    secret = {key: PROVIDED.get(key, "postgresql://bridge:x@postgres.db.svc/bridge") for key in names}
    settings = settings_of(monkeypatch, {**secret, **environ})
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout_seconds
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    security = bridge["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
    assert {"requests", "limits"} <= bridge["resources"].keys()
    assert {"startupProbe", "livenessProbe"} <= bridge.keys()


@pytest.mark.parametrize("name", ["sidecar.yaml", "replicas.yaml"])
def test_prometheus_and_the_probes_reach_the_second_listener(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = documents_in(name)
    [template] = [it["spec"]["template"] for it in found if it["kind"] == "Deployment"]
    bridge = bridge_of(template["spec"])
    given = {it["name"]: it["value"] for it in bridge["env"]}
    settings = settings_of(monkeypatch, {**given, "BRIDGE_TOKENS": "shop:shop-token-1"})
    ports = {it["name"]: it["containerPort"] for it in bridge["ports"]}
    [metrics_name] = [each for each, port in ports.items() if port == settings.metrics_port]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(settings.metrics_port)
    probes = [bridge[probe]["httpGet"] for probe in bridge if probe.endswith("Probe") and "httpGet" in bridge[probe]]
    assert probes
    assert {it["port"] for it in probes} == {metrics_name}
    [policy] = [it["spec"] for it in found if it["kind"] == "NetworkPolicy"]
    scraped = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] in {metrics_name, settings.metrics_port}]
    assert len(scraped) == 1
    assert scraped[0]["from"]


def test_the_sidecar_starts_before_its_app() -> None:
    pod = dict(pods())["sidecar.yaml"]
    bridge = bridge_of(pod)
    assert bridge in pod["initContainers"]
    assert bridge["restartPolicy"] == "Always"
    [mount] = bridge["volumeMounts"]
    assert mount["mountPath"] == "/data"
    assert bridge["startupProbe"]["exec"]["command"] == ["amux-bridge", "healthy"]
    assert bridge["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "bridge-metrics"}
    [deployment] = [it for it in documents_in("sidecar.yaml") if it["kind"] == "Deployment"]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]["type"]) == (1, "Recreate")


def test_every_selector_matches_the_pods_of_its_file() -> None:
    for name in ("sidecar.yaml", "replicas.yaml"):
        found = documents_in(name)
        [deployment] = [it for it in found if it["kind"] == "Deployment"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        for policy in (it for it in found if it["kind"] == "NetworkPolicy"):
            assert policy["spec"]["podSelector"]["matchLabels"] == labels


# --- systemd ------------------------------------------------------------------------------------------------------


def installed_unit(folder: Path) -> Path:
    """Returns the unit with the path of the command on this machine, because systemd checks that the command exists."""
    copy = folder / UNIT.name
    command = Path(sys.executable).with_name("amux-bridge")
    copy.write_text(UNIT.read_text().replace("/opt/amux-bridge/bin/amux-bridge serve", f"{command} serve"))
    return copy


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@needs_systemd
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", str(installed_unit(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
def test_systemd_rates_the_unit_as_well_protected(tmp_path: Path) -> None:
    unit = str(installed_unit(tmp_path))
    command = ["systemd-analyze", "security", "--offline=yes", "--json=short", "--threshold=20", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    exposed = [it["name"] for it in json.loads(done.stdout) if it["set"] is False]
    assert done.returncode == 0, exposed


def test_the_unit_waits_for_the_drain_and_has_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.partition("=")[::2] for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w*=", line)]
    unit = dict(lines)
    environ = dict(value.partition("=")[::2] for name, value in lines if name == "Environment")
    settings = settings_of(monkeypatch, {"BRIDGE_HOST": "127.0.0.1", **environ})
    assert int(unit["TimeoutStopSec"]) > settings.drain_timeout_seconds
    assert build_parser().parse_args(unit["ExecStart"].split()[1:]).command == "serve"


# --- the list ----------------------------------------------------------------------------------------------------


def test_the_list_of_examples_names_each_file_once() -> None:
    named = re.findall(r"\]\(([\w./-]+)\)", (EXAMPLES / "README.md").read_text())
    existing = [
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*")
        if path.is_file()
        and not path.is_symlink()  # a chart's copy of another example
        and path.suffix != ".md"
        # A chart is listed by its values.
        and (path.parent.name != "templates" and path.name != "Chart.yaml")
    ]
    assert sorted(name for name in named if not name.startswith("..")) == sorted(
        name for name in existing if "__pycache__" not in name
    )
    assert all((EXAMPLES / name).exists() for name in named)


def test_every_example_that_people_read_has_at_most_100_lines() -> None:
    for path in EXAMPLES.rglob("*"):
        if path.suffix in {".py", ".mjs", ".sh"}:
            lines = path.read_text().splitlines()
            assert len(lines) <= 100 or "Made from the bridge's own models" in lines[0], path
