"""The image is built and run as docs/operations.md says, where a container engine is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.run_image import NO_ENGINE_EXIT_CODE


@pytest.mark.long
def test_the_image_is_built_and_runs_without_rights() -> None:
    script = Path(__file__).with_name("run_image.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if done.returncode == NO_ENGINE_EXIT_CODE:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 7
