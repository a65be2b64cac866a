"""The commands of the README work unchanged, with the stand-in for amux."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.sandbox import Behaviour
from tests.docs.harness import README, ROOT, Workspace, all_text, block, text
from tests.ports import free_port
from tests.programs import program
from tests.working_time import working_seconds

# The README says in words how to stop what the commands with a key have started.
STOP = "kill $receiver $bridge; wait $receiver $bridge || true\n"


@pytest.mark.long
def test_the_whole_tour_without_a_key_works_in_one_terminal_within_three_minutes(tmp_path: Path) -> None:
    """The test runs everything from the first command, which installs the program, to the one that stops the bridge."""
    for name in ("bridge", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    # The interpreter of this run may have another name than the reader's.
    demo = block(README, "sh", "amux-bridge demo").replace("python3 ", f"{sys.executable} ")
    tour = block(README, "sh", "serve --sandbox") + block(README, "sh", "kill $bridge; wait")
    port = free_port()
    script = f"{demo}\n{tour}".replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    environ = {**os.environ, "BRIDGE_PORT": str(port)}
    began = working_seconds()
    done = subprocess.run(
        ["/bin/sh", "-ec", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    seconds = working_seconds() - began
    assert done.returncode == 0, done.stderr
    assert "7 of 7 callbacks delivered" in done.stdout
    assert re.search(r"^verified .*video\.completed", done.stdout, re.MULTILINE), done.stdout
    printed = {masked(line) for line in done.stdout.splitlines()}
    [sample] = re.findall(r"^```\n(  \.\.\..*?)^```$", text(README), re.MULTILINE | re.DOTALL)
    shown = [masked(line) for line in sample.splitlines() if masked(line) not in {"...", ""}]
    assert [line for line in shown if line not in printed] == []
    assert len(shown) > 5
    assert seconds < 180  # 47 s on two busy cores, of which 30 s are the installation


def masked(line: str) -> str:
    """Returns a line with masks for what differs from run to run, and without the widths of columns."""
    line = re.sub(r"task_[0-9a-f]+", "task", re.sub(r"127\.0\.0\.1:\d+", "host", line))
    return " ".join(re.sub(r"\b\d+\.\d s\b", "seconds", line).split())


async def test_the_commands_without_a_key_work_when_pasted_in_one_terminal(workspace: Workspace) -> None:
    program("curl", "curl")
    script = block(README, "sh", "serve --sandbox") + block(README, "sh", "kill $bridge; wait")
    printed = await workspace.run(script)
    assert '"status":"ready"' in printed
    assert re.search(r"^verified .*video\.completed", printed, re.MULTILINE), printed
    assert json.loads((workspace.folder / "bridge.log").read_text().splitlines()[-1])["event"] == "stopped"


async def test_the_commands_with_a_key_work_when_pasted_in_one_terminal(workspace: Workspace) -> None:
    program("curl", "curl")
    first, second = (workspace.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0.5)) for _ in range(2))
    register = block(README, "sh", "8080/watch").replace("task_8x7Kq2mVn4Jd9sLw3Rb6Tz1Yc5Hf0Gp2", second)
    wait_for_second = f"until grep -q {second} callbacks.log; do sleep 0.1; done\n"
    # The first poll of this test is 50 times earlier than the default, so wait until the receiver listens.
    wait_for_receiver = "until grep -q 'listening on' callbacks.log; do sleep 0.1; done\n"
    script = block(README, "sh", "listen --port") + wait_for_receiver + block(README, "sh", "watch task_") + register
    printed = await workspace.run(f"{script}{wait_for_second}echo; cat callbacks.log; {STOP}", first)
    assert f"{first} completed\nvideo.completed was delivered\n" in printed
    [answer] = [line for line in printed.splitlines() if line.startswith('{"id":"wat_')]
    watch = json.loads(answer)
    assert (watch["task_id"], watch["state"], watch["context"]) == (second, "active", {"order": 17})
    assert watch["deliveries"] == []
    assert printed.count("verified  video.completed") == 2
    assert "NOT VERIFIED" not in printed
    assert json.loads((workspace.folder / "bridge.log").read_text().splitlines()[-1])["event"] == "stopped"


async def test_check_and_ping_work_beside_a_running_bridge(workspace: Workspace) -> None:
    serve = "AMUX_API_KEY=sk-... BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8 amux-bridge serve"
    async with (
        workspace.running(serve, '"listening"'),
        workspace.running("amux-bridge listen --port 9000", "listening on"),
    ):
        opened = {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8"}
        ping = workspace.run(f"amux-bridge ping {workspace.hook_url}", **opened)
        await asyncio.gather(workspace.run("amux-bridge check"), ping)


async def test_the_other_commands_that_the_pages_name_work(workspace: Workspace) -> None:
    named = set(re.findall(r"`(amux-bridge [^`\n]+)`", all_text()))
    needs_more = {"amux-bridge check", "amux-bridge ping URL", "amux-bridge ping", "amux-bridge retry"}
    needs_more |= {"amux-bridge secret rotate", "amux-bridge/<version>"}
    starts = {command for command in named if re.match(r"amux-bridge (serve|demo|sandbox|listen)", command)}
    run = sorted(named - needs_more - starts)
    assert len(run) >= 5
    async with workspace.running("AMUX_API_KEY=sk-... amux-bridge serve", '"listening"'):
        for command in run:
            assert await workspace.run(command), command
