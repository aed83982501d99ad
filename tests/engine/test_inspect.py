"""A model looked at is the model that would be loaded: the same facts, without its weights being read."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from candle_vllm import EngineConfig, InferenceEngine, ModelInfo, ModelLoadError, inspect_model

SHARED = ("architecture", "layers", "hidden_size", "vocab_size", "max_position", "dtype", "kv_dtype", "parameters")
ALSO = ("weight_bytes", "device", "eos_token_ids", "bos_token_id", "generation_config", "name", "path")


def same(config: EngineConfig, info: ModelInfo) -> None:
    report = inspect_model(config)
    assert report.problems == ()
    for fact in (*SHARED, *ALSO):
        assert getattr(report, fact) == getattr(info, fact), fact
    # A cache that holds one sequence of the whole context, in whole blocks.
    blocks = -(-report.context // info.block_size)
    assert report.kv_bytes == blocks * (info.kv_bytes // info.kv_blocks)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "ernie4_5_moe"])
def test_a_mixture_of_experts(family: str, materialize: Callable[[str], Path]) -> None:
    config = EngineConfig(model_path=materialize(family), threads=1)
    with InferenceEngine(config) as engine:
        same(config, engine.model_info)


# Layers of two sizes and two kinds of windows; inputs of each layer, and layers that read another's keys and values.
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
@pytest.mark.parametrize("family", ["gemma3_composite", "gemma4_e"])
def test_a_gemma(family: str, kv_cache_dtype: str, materialize: Callable[[str], Path]) -> None:
    config = EngineConfig(model_path=materialize(family), kv_cache_dtype=kv_cache_dtype, threads=1)
    with InferenceEngine(config) as engine:
        same(config, engine.model_info)


# Of hidden 64, where K types fall back to blocks of 32, and of 256; tied and untied heads, experts.
@pytest.mark.parametrize("dtype", ["auto", "f32"])
@pytest.mark.parametrize(
    ("case", "isq"),
    [
        ("gguf/llama_tied_bias.gguf", "q8_0"),
        ("gguf/llama_tied_bias.gguf", "q4_k"),
        ("gguf/qwen3_moe.gguf", "q4_0"),
        ("ggml/BF16.gguf", "q4_k"),
        ("ggml/BF16.gguf", "q6_k"),
        ("hf/gemma4_e", "q4_k"),
    ],
)
def test_quantising_while_loading(
    case: str, isq: str, dtype: str, goldens: Path, materialize: Callable[[str], Path]
) -> None:
    path = materialize(case.removeprefix("hf/")) if case.startswith("hf/") else goldens / case
    config = EngineConfig(model_path=path, isq=isq, dtype=dtype, threads=1)
    with InferenceEngine(config) as engine:
        same(config, engine.model_info)
    # Less than what is stored takes; in float32 more, as what codes stand for has no place in bfloat16.
    stored, report = inspect_model(replace(config, isq=None)), inspect_model(config)
    assert report.parameters == stored.parameters
    assert (report.weight_bytes < stored.weight_bytes) == (dtype == "auto")


@pytest.mark.parametrize("dtype", ["auto", "f32", "bf16", "f16"])
def test_a_report_says_what_loading_makes(tiny_model_path: Path, dtype: str) -> None:
    config = EngineConfig(model_path=tiny_model_path, dtype=dtype, threads=1)
    with InferenceEngine(config) as engine:
        same(config, engine.model_info)


def test_the_default_model(smollm2_path: Path) -> None:
    config = EngineConfig(model_path=smollm2_path)
    with InferenceEngine(config) as engine:
        same(config, engine.model_info)
        report = inspect_model(config)
        assert report.tokens == engine.model_info.vocab_size
    kinds = report.weight_types
    assert max(kinds, key=lambda kind: kinds[kind]) == "q4_1"
    assert "default" in report.chat_templates
    assert report.fits and report.longest_that_fits == report.max_position == report.context
    assert report.memory_bytes == report.weight_bytes + report.kv_bytes + report.activation_bytes


def test_the_context_asked_for_decides(smollm2_path: Path) -> None:
    whole = inspect_model(EngineConfig(model_path=smollm2_path))
    half = inspect_model(EngineConfig(model_path=smollm2_path, max_sequence_length=whole.max_position // 2))
    assert half.context == whole.max_position // 2
    assert 2 * half.kv_bytes == whole.kv_bytes


def broken(of: Path, to: Path, change: Callable[[dict[str, object]], None]) -> Path:
    shutil.copytree(of, to)
    config = json.loads((to / "config.json").read_text(encoding="utf-8"))
    change(config)
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return to


def test_what_is_not_supported_is_said_and_the_rest_shown(tiny_model_path: Path, tmp_path: Path) -> None:
    unknown = broken(tiny_model_path, tmp_path / "m", lambda c: c.update(architectures=["LlamaForCausalLn"]))
    report = inspect_model(EngineConfig(model_path=unknown))
    assert len(report.problems) == 1
    assert "LlamaForCausalLM" in report.problems[0], "the nearest"
    assert report.architecture == "LlamaForCausalLn"
    assert report.tokens == 312
    assert not report.fits
    assert report.weight_bytes == 0


def test_weights_that_do_not_fit_the_configuration(tiny_model_path: Path, tmp_path: Path) -> None:
    wider = broken(tiny_model_path, tmp_path / "m", lambda c: c.update(num_hidden_layers=2))
    report = inspect_model(EngineConfig(model_path=wider))
    assert "model.layers.2." in report.problems[0]
    with pytest.raises(ModelLoadError) as refused:
        InferenceEngine(EngineConfig(model_path=wider))
    assert str(refused.value) == report.problems[0]


def test_no_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no"):
        inspect_model(EngineConfig(model_path=tmp_path))
