"""Golden checkpoints in every container an engine opens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .reference import GOLDENS


@pytest.fixture(scope="session")
def checkpoint(materialize: Callable[[str], Path]) -> Callable[[str], Path]:
    """Gives the path of `hf/<case>`, `formats/<FORMAT>`, `gguf/<case>` or `ggml/<TYPE>`."""

    def find(name: str) -> Path:
        if name.startswith("formats/"):
            return GOLDENS / name
        return materialize(name.removeprefix("hf/")) if name.startswith("hf/") else GOLDENS / f"{name}.gguf"

    return find
