"""Broken checkpoints are refused with a ModelLoadError, soon and without taking memory for what they claim to hold."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from candle_vllm import InferenceEngine, ModelLoadError

from . import broken_gguf, broken_safetensors

SECONDS = 5.0
GROWTH = 256 << 20  # bytes; the sound models take a hundredth of it
CASES: dict[str, Callable[[Path, Path], Path]] = {
    **{f"gguf: {name}": (lambda sound, folder, w=write: w(folder)) for name, write in broken_gguf.CASES.items()},  # type: ignore[misc]
    **{f"safetensors: {name}": make for name, make in broken_safetensors.CASES.items()},
}


def build(path: Path) -> None:
    InferenceEngine.builder().model_path(path).threads(1).max_sequence_length(64).build().close()


def peak() -> int:
    """Most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_what_is_broken_here_was_sound(tiny_model_path: Path, tmp_path: Path) -> None:
    build(broken_gguf.changed(lambda file: None)(tmp_path))
    build(broken_gguf.split()(tmp_path))
    (tmp_path / "shards").mkdir()
    build(broken_safetensors.shards(lambda index, folder: None)(tiny_model_path, tmp_path / "shards"))
    assert len(CASES) >= 120


@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_a_load_error(case: str, tiny_model_path: Path, tmp_path: Path) -> None:
    path = CASES[case](tiny_model_path, tmp_path)
    before, start = peak(), time.monotonic()
    with pytest.raises(ModelLoadError, match=r".{20}"):
        build(path)
    assert time.monotonic() - start < SECONDS
    assert peak() - before < GROWTH
