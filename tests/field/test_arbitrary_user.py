"""As on OpenShift: any user id, group 0, no entry in /etc/passwd, no HOME. The image's /data belongs to group 0."""

import os
from pathlib import Path

import pytest

from tests.e2e.harness import Environment
from tests.field.harness import as_user, check_works, run_command, serving

pytestmark = pytest.mark.long
USER, IMAGE_USER = 165_000, 10_001


def data_folder(folder: Path) -> Path:
    """Makes a folder with the owner and the mode that the Dockerfile gives /data."""
    data = folder / "data"
    data.mkdir()
    os.chown(data, IMAGE_USER, 0)
    data.chmod(0o770)
    return data


async def test_it_runs_stops_and_runs_again_as_any_user_of_group_0(folder: Path, env: Environment) -> None:
    prefix = as_user(USER, 0)
    data = data_folder(folder)
    hidden = data / ".env"  # belongs to the user of the image
    hidden.write_text("BRIDGE_PORT=1\n")
    os.chown(hidden, IMAGE_USER, IMAGE_USER)
    hidden.chmod(0o600)
    for _ in range(2):
        async with serving(data, env, prefix=prefix) as (running, bridge):
            cautions = [line["what"] for line in running.lines if line["event"] == "caution"]
            assert any(".env" in what and "cannot be read" in what for what in cautions), cautions
            await check_works(env, bridge)
            await running.stop()
    made = {path.name: path.stat() for path in data.iterdir() if path.is_file() and path != hidden}
    assert {status.st_uid for status in made.values()} == {USER}
    assert {oct(status.st_mode & 0o777) for status in made.values()} == {"0o600"}, made


def test_the_other_commands_run_as_that_user(folder: Path) -> None:
    prefix = as_user(USER, 0)
    data = data_folder(folder)
    for arguments in (["--version"], ["secret", "new"]):
        done = run_command(*arguments, folder=data, prefix=prefix)
        assert (done.returncode, done.stderr) == (0, ""), done
