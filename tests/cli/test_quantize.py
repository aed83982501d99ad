"""candle-vllm quantize: a file is written whole or not at all, and never over another unless told so."""

from __future__ import annotations

from pathlib import Path

import pytest

from candle_vllm import InferenceEngine
from candle_vllm.cli import main

LLAMA = Path(__file__).parents[1] / "goldens" / "gguf" / "llama.gguf"


def test_a_file_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.gguf"
    argv = ["quantize", str(LLAMA), str(out), "--type", "Q4_0", "--threads", "1"]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith(f"{out} ")
    assert out.stat().st_size < LLAMA.stat().st_size / 2
    with InferenceEngine.builder().model_path(out).kv_cache_memory(1 << 20).build() as engine:
        assert engine.model_info.dtype == "q4_0"
    first = out.read_bytes()
    assert main(argv) == 2
    assert "OUT must be a new file" in capsys.readouterr().err
    assert main([*argv, "--force"]) == 0
    assert out.read_bytes() == first
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("model", "out", "kind", "status", "said"),
    [
        (str(LLAMA), "a.gguf", "q9_0", 2, "--type must be one of q4_0"),
        (str(LLAMA), "none/a.gguf", "q4_0", 2, "OUT must be a file in a folder that exists"),
        (str(LLAMA), "", "q4_0", 2, "OUT must be a file"),
        ("./nothing-here", "a.gguf", "q4_0", 1, "no model './nothing-here'"),
        (__file__, "a.gguf", "q4_0", 1, "neither a folder nor a GGUF file"),
    ],
)
def test_mistakes_cost_one_line(
    model: str, out: str, kind: str, status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", model, str(tmp_path / out), "--type", kind]) == status
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_written_over_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(LLAMA.read_bytes())
    assert main(["quantize", str(own), str(own), "--type", "q4_0", "--force"]) == 2
    assert "another file than the model's own" in capsys.readouterr().err
    assert own.read_bytes() == LLAMA.read_bytes()


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.gguf.partial").mkdir()
    assert main(["quantize", str(LLAMA), str(tmp_path / "small.gguf"), "--type", "q8_0"]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert not (tmp_path / "small.gguf").exists()
