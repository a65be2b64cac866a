"""The image, built and run as it is meant to be, wherever there is an engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.image.run_image import NOTHING_TO_RUN_WITH


@pytest.mark.long
def test_the_image_is_built_and_runs_without_any_right() -> None:
    script = Path(__file__).with_name("run_image.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if done.returncode == NOTHING_TO_RUN_WITH:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 7
