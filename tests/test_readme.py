"""What the README says is what is: its table, its commands, and its receivers, each run against a real signature.

`python tests/test_readme.py` writes the table of settings anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer, unused_port
from openai import InvalidWebhookSignatureError

from bridge.cli import build_parser
from bridge.core.signing import Secret, signed_headers
from bridge.settings import describe

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = (
    "<!-- settings: made of bridge/settings.py, held to it by tests/test_readme.py -->",
    "<!-- end of settings -->",
)
SECRET, OTHER = Secret(b"r" * 32), Secret(b"x" * 32)
# A byte that shells and JSON parsers like to change.
BODY = (
    '{"id":"evt_1","object":"event","type":"video.completed","created_at":1,"timestamp":"1970-01-01T00:00:01Z",'
    '"data":{"url":"https://videos.example/1.mp4","context":{"note":"caf\u00e9 $HOME \\\\ %s"}}}'
).encode()


def settings_table() -> str:
    rows = ["| name | default | |", "|---|---|---|"]
    for name, default, description in describe():
        shown = f"`{default}`".replace(",", ", ") if default else ""
        rows.append(f"| `{name}` | {shown} | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def text() -> str:
    return README.read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The README's fenced blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)


def block(language: str, holding: str) -> str:
    [found] = [one for one in blocks(language) if holding in one]
    return found


# --- words --------------------------------------------------------------------------------------------------------


def test_the_table_of_settings_is_the_codes() -> None:
    written = text().partition(BEGIN)[2].partition(END)[0].strip()
    assert written == settings_table(), "run: python tests/test_readme.py"


def test_it_begins_with_three_sentences_and_ends_with_what_changed() -> None:
    first = text().split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 3
    assert re.findall(r"^## (.*)$", text(), re.MULTILINE)[-1] == "What changed"


def test_every_command_that_it_names_is_there() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]  # argparse's own
    assert commands is not None
    named = set(re.findall(r"amux-bridge ([a-z]+)\b", "\n".join(re.findall(r"`[^`\n]+`", text()) + blocks("sh"))))
    assert named - {"amux"} <= set(commands)
    assert {"demo", "serve", "listen", "watch", "secret"} <= named


def test_every_test_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+\.py)`", README.read_text("utf-8")))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_ci_runs_the_readmes_own_test_command() -> None:
    [command] = re.findall(r"^python3 -m venv .*pytest$", text(), re.MULTILINE)
    [pattern] = re.findall(r"sed -n '/(\^python3 .*)/p' README\.md", (ROOT / ".ci/run").read_text())
    assert re.fullmatch(pattern, command)
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("holding", ["amux-bridge demo", "pytest", "amux-bridge serve", "openssl dgst", "docker run"])
def test_shell_blocks_are_shell(holding: str) -> None:
    for found in [one for one in blocks("sh") if holding in one]:
        subprocess.run(["/bin/sh", "-n"], input=found, text=True, check=True)


# --- receivers ----------------------------------------------------------------------------------------------------


def signed(secret: Secret = SECRET) -> dict[str, str]:
    return {"Content-Type": "application/json", **signed_headers("evt_1", int(time.time()), BODY, [secret])}


def run_block(holding: str) -> dict[str, Any]:
    """What a Python block defines, with our secret in it."""
    defined: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block("python", holding).replace("whsec_...", SECRET.text), "README.md", "exec"), defined)  # noqa: S102
    return defined


async def test_the_python_receiver_takes_good_messages_once_and_refuses_bad_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with TestClient(TestServer(run_block("standardwebhooks")["app"])) as client:
        for headers, status in ((signed(), 204), (signed(), 204), (signed(OTHER), 401)):
            answer = await client.post("/hooks/video", data=BODY, headers=headers)
            assert answer.status == status
    assert capsys.readouterr().out.splitlines() == [
        "video.completed https://videos.example/1.mp4 {'note': 'caf\u00e9 $HOME \\\\ %s'}"
    ]


def test_the_openai_sdk_unwraps_our_messages() -> None:
    on_hook = run_block("OpenAI")["on_hook"]
    kind, data = on_hook(BODY, signed())
    assert kind == "video.completed"
    assert (data["url"] if isinstance(data, dict) else data.url) == "https://videos.example/1.mp4"
    with pytest.raises(InvalidWebhookSignatureError):
        on_hook(BODY, signed(OTHER))


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node here")
async def test_the_node_receiver_takes_good_messages_and_refuses_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "receiver.mjs").write_text(block("js", "createHmac"))
    with node(tmp_path / "receiver.mjs") as (url, running):
        async with aiohttp.ClientSession() as session:
            for headers, status in ((signed(), 204), (signed(OTHER), 401), ({}, 401)):
                async with session.post(url, data=BODY, headers=headers) as answer:
                    assert answer.status == status
        running.terminate()
        assert running.communicate()[0] == "video.completed https://videos.example/1.mp4\n"


@contextmanager
def node(script: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """A receiver in Node that listens already."""
    port = unused_port()
    environ = {**os.environ, "PORT": str(port), "WEBHOOK_SECRET": SECRET.text}
    with subprocess.Popen(["node", script], env=environ, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "listening\n"
            yield f"http://127.0.0.1:{port}/", running
        finally:
            running.kill()


@pytest.mark.parametrize(("secret", "said"), [(SECRET, "verified\n"), (OTHER, "not verified\n")])
def test_the_shell_check_tells_good_from_bad(secret: Secret, said: str, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(BODY)
    headers: Mapping[str, str] = {name.upper().replace("-", "_"): value for name, value in signed(secret).items()}
    done = subprocess.run(
        ["/bin/sh", "-c", block("sh", "openssl dgst")],
        cwd=tmp_path,
        env={**os.environ, **headers, "WEBHOOK_SECRET": SECRET.text},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (said, "")
    assert (done.returncode == 0) == (said == "verified\n")


if __name__ == "__main__":
    before, _, rest = text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{settings_table()}\n{END}{rest.partition(END)[2]}", "utf-8")
    sys.stdout.write("README.md has the settings as they are\n")
