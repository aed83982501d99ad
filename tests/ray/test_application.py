"""Real replicas of the tiny model behind one endpoint: whole, streamed, while one is killed and one has failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.serve")

PROGRAM = Path(__file__).with_name("serving.py")


@pytest.mark.slow
def test_two_replicas_of_which_one_is_killed(tiny_model_path: Path) -> None:
    # In a process of its own: Ray leaves threads and warnings behind.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tiny_model_path)], capture_output=True, text=True, timeout=480
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "all is well"
