"""Bridges with the users, file modes, mounts and settings that the files in examples/ give them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.sandbox.video import MP4
from tests.databases import PostgresServer
from tests.e2e.bridges import FAST_SETTINGS, ROOT
from tests.e2e.harness import Environment
from tests.field.harness import as_user, check_works, read_only_root, serving

pytestmark = pytest.mark.long
EXAMPLES = ROOT / "examples"
IMAGE_USER = 10_001
KEYS = FAST_SETTINGS["encryption_keys"]


@dataclass
class Container:
    """One bridge of an example. `data` is true if it has a volume at /data, `temporary` if it has one at /tmp."""

    environ: Mapping[str, str]
    user: int
    group: int
    read_only: bool
    data: bool
    temporary: bool


def of_kubernetes(name: str) -> Container:
    documents = yaml.safe_load_all((EXAMPLES / "kubernetes" / name).read_text())
    [pod] = [it["spec"]["template"]["spec"] for it in documents if it["kind"] == "Deployment"]
    [bridge] = [it for it in (*pod.get("initContainers", []), *pod["containers"]) if it["name"] == "amux-bridge"]
    security = {**pod["securityContext"], **bridge["securityContext"]}
    mounts = {mount["mountPath"] for mount in bridge["volumeMounts"]}
    return Container(
        {it["name"]: it["value"] for it in bridge["env"]},
        *(security["runAsUser"], security["runAsGroup"], security["readOnlyRootFilesystem"]),
        data="/data" in mounts,
        temporary="/tmp" in mounts,  # noqa: S108
    )


def of_compose(name: str, service: str) -> Container:
    text = re.sub(
        r"(?<!\$)\$\{\w+(?::-([^}]*)|:\?)?\}", lambda match: match[1] or "", (EXAMPLES / "compose" / name).read_text()
    )
    found = yaml.safe_load(text)["services"][service]
    volumes = {volume.rpartition(":")[2] for volume in found["volumes"]}
    environ = {key: value for key, value in found["environment"].items() if value and not key.endswith("_URL")}
    # The image always has a volume at /data.
    return Container(environ, IMAGE_USER, IMAGE_USER, found["read_only"], data=True, temporary="/tmp" in volumes)  # noqa: S108


def started(folder: Path, container: Container) -> tuple[Path, list[str], dict[str, str]]:
    """Makes the folders of a container. Returns its working folder, its prefix and its environment variables."""
    data, temporary = folder / "data", folder / "tmp"
    for made in (data, temporary):
        made.mkdir()
        os.chown(made, IMAGE_USER, 0)  # as in the Dockerfile; any user may write to an emptyDir
    data.chmod(0o770)
    temporary.chmod(0o777)
    writable = [place for place, used in ((data, container.data), (temporary, container.temporary)) if used]
    assert container.read_only
    prefix = as_user(container.user, container.group, mounts=read_only_root(*writable))
    ports = dict.fromkeys(("BRIDGE_PORT", "BRIDGE_METRICS_PORT"), "0")
    image = {"BRIDGE_HOST": "0.0.0.0"}  # noqa: S104  the image's ENV
    return data, prefix, {**image, **container.environ, **ports, "TMPDIR": str(temporary)}


async def check_example(folder: Path, env: Environment, container: Container, **settings: Any) -> None:
    data, prefix, environ = started(folder, container)
    for _ in range(2):
        async with serving(data, env, prefix=prefix, environ=environ, **settings) as (running, bridge):
            watch = await check_works(env, bridge)
            video = await bridge.ask("GET", f"/watch/{watch}/content")
            assert (video.status, video.body) == (200, MP4)
            probes = (await running.wait_for_log("listening_for_probes"))["url"]
            async with bridge.session.get(f"{probes}/metrics") as answer:
                assert answer.status == 200
            assert not [line for line in running.lines if line["event"] == "content_cache_unused"], running.raw
            await running.stop()


async def test_the_sidecar_of_kubernetes(folder: Path, env: Environment) -> None:
    await check_example(folder, env, of_kubernetes("sidecar.yaml"))


async def test_the_sidecar_of_compose(folder: Path, env: Environment) -> None:
    container = of_compose("compose.yaml", "bridge")
    container.environ = {**container.environ, "BRIDGE_SIGNING_SECRETS": FAST_SETTINGS["signing_secrets"]}
    await check_example(folder, env, container)


@pytest.mark.parametrize("way", ["kubernetes", "compose"])
async def test_the_replicas(folder: Path, env: Environment, postgres_server: PostgresServer, way: str) -> None:
    container = of_kubernetes("replicas.yaml") if way == "kubernetes" else of_compose("replicas.yaml", "bridge-1")
    await check_example(folder, env, container, database_url=postgres_server.empty(), encryption_keys=KEYS)


async def test_the_service_of_systemd(folder: Path, env: Environment) -> None:
    """With DynamicUser=yes, the user has no entry in /etc/passwd, and has its own state directory and /tmp."""
    unit = (EXAMPLES / "systemd/amux-bridge.service").read_text()
    environ = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
    assert "UMask=0077" in unit
    assert "StateDirectoryMode=0700" in unit
    container = Container(environ, 61_184, 61_184, read_only=True, data=True, temporary=True)
    data, prefix, variables = started(folder, container)
    os.chown(data, container.user, container.group)
    data.chmod(0o700)
    prefix += ["sh", "-c", 'umask 0077 && exec "$@"', "sh"]
    for _ in range(2):
        async with serving(data, env, prefix=prefix, environ=variables) as (running, bridge):
            await check_works(env, bridge)
            await running.stop()
