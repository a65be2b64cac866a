"""Kubernetes' fsGroup: each mount of a volume gives all its files to the group, which may then read and write them."""

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.bridges import ROOT
from tests.e2e.harness import Environment
from tests.field.harness import as_user, check_works, program, run_command, serving

SIDECAR = ROOT / "examples/kubernetes/sidecar.yaml"
pytestmark = pytest.mark.long


def sidecar() -> tuple[Any, Any]:
    """Returns the spec of the example's pod, and the container of its bridge."""
    [deployment] = [it for it in yaml.safe_load_all(SIDECAR.read_text()) if it["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    return pod, pod["initContainers"][0]


def mount(volume: Path, group: int) -> None:
    """Sets the group and modes of a volume's files, as the kubelet does before each start of a pod with an fsGroup."""
    for path in (volume, *volume.rglob("*")):
        status = path.stat()
        os.chown(path, status.st_uid, group)
        folder_bits = stat.S_ISGID | 0o110 if path.is_dir() else 0
        path.chmod(stat.S_IMODE(status.st_mode) | 0o660 | folder_bits)


async def test_the_sidecar_of_the_example_starts_again_after_each_mount(folder: Path, env: Environment) -> None:
    pod, container = sidecar()
    security, group = container["securityContext"], pod["securityContext"]["fsGroup"]
    prefix = as_user(security["runAsUser"], security["runAsGroup"], group)
    volume = folder / "volume"
    volume.mkdir()
    environ = {it["name"]: it["value"] for it in container["env"]} | {"BRIDGE_METRICS_PORT": "0"}
    watches: list[str] = []
    for _ in range(3):
        mount(volume, group)
        async with serving(volume, env, prefix=prefix, environ=environ) as (running, bridge):
            name, *arguments = container["startupProbe"]["exec"]["command"]
            assert name == "amux-bridge"
            probed = {**environ, "BRIDGE_URL": bridge.url}
            done = await asyncio.to_thread(run_command, *arguments, folder=volume, prefix=prefix, environ=probed)
            assert (done.returncode, done.stderr) == (0, ""), done
            probes = (await running.wait_for_log("listening_for_probes"))["url"]
            async with bridge.session.get(probes + container["livenessProbe"]["httpGet"]["path"]) as answer:
                assert answer.status == 200
            for earlier in watches:
                assert (await bridge.watch(earlier))["state"] == "settled"
            watches.append(await check_works(env, bridge))
            await running.stop()


async def test_a_group_that_only_the_volume_names_is_enough(folder: Path, env: Environment) -> None:
    """The process has the fsGroup, 2000, only as a supplementary group. Its primary group is 10001."""
    prefix = as_user(10_001, 10_001, 2000)
    volume = folder / "volume"
    volume.mkdir()
    for _ in range(2):
        mount(volume, 2000)
        async with serving(volume, env, prefix=prefix) as (running, bridge):
            await check_works(env, bridge)
            await running.stop()


@pytest.mark.parametrize("bits", [0o604, 0o602, 0o666])
async def test_a_key_file_with_bits_for_others_is_refused_in_one_sentence(
    folder: Path, env: Environment, bits: int
) -> None:
    prefix = as_user(10_001, 10_001)
    os.chown(folder, 10_001, 10_001)
    async with serving(folder, env, prefix=prefix) as (running, _):
        await running.stop()
    key = folder / "bridge.key"
    key.chmod(bits)
    async with program(folder, prefix=prefix, amux_base_url=env.amux_url) as refused:
        assert await refused.wait_for_exit() == 2
        [line] = refused.lines
        assert line["event"] == "start_refused"
        assert str(key.name) in line["reason"]
        assert f"{bits:o}" in line["reason"]


async def test_files_that_root_restored_for_the_group_are_used(folder: Path, env: Environment) -> None:
    """Root copied the files back from a backup and gave them the volume's group. The bridge may not chmod them."""
    prefix = as_user(10_001, 10_001)
    volume = folder / "volume"
    volume.mkdir()
    mount(volume, 10_001)
    async with serving(volume, env, prefix=prefix) as (running, bridge):
        watch = await check_works(env, bridge)
        await running.stop()
    for path in volume.iterdir():
        os.chown(path, 0, 10_001)
        path.chmod(0o770 if path.is_dir() else 0o660)
    async with serving(volume, env, prefix=prefix) as (running, bridge):
        assert (await bridge.watch(watch))["state"] == "settled"
        await check_works(env, bridge)
        await running.stop()
    for path in volume.glob("bridge.*"):
        path.chmod(0o600)
    async with program(volume, prefix=prefix, amux_base_url=env.amux_url) as refused:
        assert await refused.wait_for_exit() == 2
        [line] = [line for line in refused.lines if line["event"] == "start_refused"]
        assert "user id 10001 and group ids 10001" in line["reason"]
