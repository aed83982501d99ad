"""Golden checkpoints as folders an engine can open."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .reference import GOLDENS


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the path of `hf/<case>` (safetensors built once), `gguf/<case>` or `ggml/<TYPE>`."""
    root = tmp_path_factory.mktemp("checkpoints")

    def build(name: str) -> Path:
        if not name.startswith("hf/"):
            return GOLDENS / f"{name}.gguf"
        folder = root / name.removeprefix("hf/")
        if not folder.exists():
            shutil.copytree(GOLDENS / name, folder)
            subprocess.run([sys.executable, GOLDENS / "materialize.py", folder], check=True)
        return folder

    return build
