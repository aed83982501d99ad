"""inspect and fits: what a newcomer reads, what a script reads, and the status."""

import json
import shutil
from pathlib import Path

import pytest

from candle_vllm.cli import main


def test_a_table(smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(smollm2_path)]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["architecture"] == "LlamaForCausalLM"
    assert rows["sizes"] == "30 layers, width 576, vocabulary 49,152"
    assert "q4_1" in rows["weights"]
    assert rows["templates"] == "default"
    assert "this machine  fits: a sequence of 8,192 tokens needs" in out


def test_json(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", "--max-model-len", "64", "--m", str(tiny_model_path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layers"], facts["context"], facts["problems"]) == (3, 64, [])
    assert facts["memory_bytes"] == facts["weight_bytes"] + facts["kv_bytes"] + facts["activation_bytes"]
    assert {"tool_format", "reasoning_format"} <= facts.keys()


def test_what_does_not_load_is_told_with_the_reason(
    tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m"
    shutil.copytree(tiny_model_path, model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["Bert9Model"]}), encoding="utf-8")
    assert main(["inspect", str(model)]) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("not supported"))
    assert "Bert9Model" in row
    assert main(["fits", str(model)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("m does not run here: ")
    assert "Bert9Model" in said


def test_fits(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fits", str(tiny_model_path)]) == 0
    assert " fits: a sequence of 512 tokens needs " in capsys.readouterr().out


def test_a_length_beyond_the_model_is_refused(tiny_model_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fits", str(tiny_model_path), "--max-model-len", "513"]) in (1, 2)
    assert "at most 512" in capsys.readouterr().err
