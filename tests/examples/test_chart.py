"""The Helm chart: helm accepts it, Kubernetes accepts what it renders, and the bridges have valid settings."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.examples.harness import EXAMPLES
from tests.examples.test_deployments import PROVIDED, settings_of
from tests.programs import helm_program

CHART = EXAMPLES / "kubernetes/chart"
VERSIONS = ["1.29.0", kubernetes_validate.latest_version()]
SECRET = ("--set", "existingSecret=amux-bridge")
EVERYTHING = (
    *SECRET,
    "--set=metrics.prometheusRule.enabled=true,metrics.prometheusRule.docsUrl=https://git.example.com/docs/",
    "--set=metrics.serviceMonitor.enabled=true,autoscaling.enabled=true,publicUrl=https://bridge.example.com",
    "--set=imagePullSecrets[0].name=pull,extraEnvFrom[0].configMapRef.name=more,nodeSelector.disk=ssd",
    "--set=podAnnotations.a=b,podLabels.team=video,image.digest=sha256:0123",
)
OF_PROMETHEUS = {"ServiceMonitor", "PrometheusRule"}
POLICY = re.compile(r"NetworkPolicy|PodDisruptionBudget|Service|Deployment|HorizontalPodAutoscaler")

Render = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def helm() -> str:
    return helm_program()


@pytest.fixture
def render(helm: str, tmp_path: Path) -> Render:
    """Renders a chart with helm. Returns the objects."""

    def run(*options: str, chart: Path = CHART, version: str = VERSIONS[-1]) -> list[Any]:
        command = [helm, "template", "bridge", str(chart), f"--kube-version={version}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return run


def only(objects: list[Any], kind: str) -> Any:
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def environment(container: Any) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def test_helm_finds_no_mistake(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART), *SECRET], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [SECRET, EVERYTHING], ids=["defaults", "everything"])
def test_kubernetes_accepts_every_rendered_object(render: Render, options: tuple[str, ...], version: str) -> None:
    objects = render(*options, version=version)
    for each in objects:
        if each["kind"] not in OF_PROMETHEUS:  # whose schemas are not Kubernetes' own
            assert POLICY.fullmatch(each["kind"])
            kubernetes_validate.validate(each, ".".join(version.split(".")[:2]), strict=True)
    kinds = {each["kind"] for each in objects}
    assert kinds >= {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    assert (kinds >= {"HorizontalPodAutoscaler"} | OF_PROMETHEUS) == (options is EVERYTHING)


def test_a_missing_secret_is_named(helm: str) -> None:
    done = subprocess.run(
        [helm, "template", str(CHART), f"--kube-version={VERSIONS[-1]}"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "existingSecret" in done.stderr


def test_the_replicas_are_hardened_and_have_valid_settings(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render(*EVERYTHING)
    deployment = only(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [bridge] = pod["containers"]
    secret = {**PROVIDED, "BRIDGE_DATABASE_URL": "postgresql://bridge:x@postgres.db.svc/bridge"}
    secret.pop("POSTGRES_PASSWORD")
    settings = settings_of(monkeypatch, {**secret, **environment(bridge)})
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout_seconds
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert bridge["image"].endswith("@sha256:0123")
    assert bridge["securityContext"]["readOnlyRootFilesystem"] is True
    assert {each["secretRef"]["name"] for each in bridge["envFrom"] if "secretRef" in each} == {"amux-bridge"}
    assert "replicas" not in deployment["spec"]  # the autoscaler sets them


def test_every_selector_and_port_matches_the_pods(render: Render) -> None:
    objects = render(*EVERYTHING)
    template = only(objects, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    ports = {each["name"] for each in template["spec"]["containers"][0]["ports"]}
    service = only(objects, "Service")
    for selector in (
        service["spec"]["selector"],
        only(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    monitor = only(objects, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    assert {each["port"] for each in monitor["endpoints"]} <= {each["name"] for each in service["spec"]["ports"]}
    for rule in only(objects, "NetworkPolicy")["spec"]["ingress"]:
        assert {each["port"] for each in rule["ports"]} <= ports
    scaler = only(objects, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == only(objects, "Deployment")["metadata"]["name"]


@pytest.mark.parametrize("docs", ["", "https://git.example.com/docs", "https://git.example.com/docs/"])
def test_the_chart_has_the_alert_rules_with_links_to_the_docs(render: Render, docs: str) -> None:
    options = f"--set=metrics.prometheusRule.enabled=true,metrics.prometheusRule.docsUrl={docs}"
    rule = only(render(*SECRET, options), "PrometheusRule")
    expected = yaml.safe_load((EXAMPLES / "monitoring/alerts.yaml").read_text())
    for each in expected["groups"][0]["rules"]:
        link = each["annotations"]["runbook_url"]
        each["annotations"]["runbook_url"] = link.replace("docs", docs.rstrip("/"), 1) if docs else link
    assert rule["spec"] == expected


PARENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: shop
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      initContainers:
        {{- include "amux-bridge.sidecar" (index .Subcharts "amux-bridge") | nindent 8 }}
      containers:
        - name: shop
          image: registry.example.com/shop:1.0.0
      volumes:
        - name: amux-bridge-data
          persistentVolumeClaim: {claimName: amux-bridge}
"""


def test_another_chart_includes_the_bridge_as_a_sidecar(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "shop"
    (parent / "templates").mkdir(parents=True)
    (parent / "charts").mkdir()
    (parent / "charts/amux-bridge").symlink_to(CHART)
    (parent / "Chart.yaml").write_text("{apiVersion: v2, name: shop, version: 1.0.0}")
    (parent / "values.yaml").write_text("amux-bridge: {existingSecret: amux-bridge, replicas: {enabled: false}}")
    (parent / "templates/deployment.yaml").write_text(PARENT)
    [deployment] = render(chart=parent)
    kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
    pod = deployment["spec"]["template"]["spec"]
    [bridge] = pod["initContainers"]
    assert bridge["restartPolicy"] == "Always"
    assert bridge["startupProbe"]["exec"]["command"] == ["amux-bridge", "healthy"]
    settings = settings_of(monkeypatch, {"AMUX_API_KEY": "sk-example", **environment(bridge)})
    assert settings.metrics_port == bridge["ports"][0]["containerPort"]
    [mount] = bridge["volumeMounts"]
    assert mount["name"] in {each["name"] for each in pod["volumes"]}


def test_the_chart_installs_the_version_of_the_package() -> None:
    text = (EXAMPLES.parent / "pyproject.toml").read_text()
    [version] = re.findall(r'(?m)^version = "([^"]+)"', text)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version


def test_the_kustomize_base_names_files_and_images_that_exist() -> None:
    base = yaml.safe_load((CHART.parent / "kustomization.yaml").read_text())
    text = "".join((CHART.parent / name).read_text() for name in base["resources"])
    assert all(f"image: {image['name']}:" in text for image in base["images"])
