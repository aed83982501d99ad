"""Quantising while loading is what loading the quantised file is, bit for bit, and keeps SmolLM2's perplexity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_vllm import GenerationParams, InferenceEngine, quantize_model
from candle_vllm.config import EngineConfig

from .reference import GOLDENS, smollm2

REFERENCE = smollm2()
PROMPT = [1, *((np.arange(40) * 37 + 11) % 280 + 20).tolist()]

# Of hidden 64 mostly: K types fall back to blocks of 32. Those of hidden 256 do not.
CASES = {
    "gguf/llama.gguf": ("q8_0", "q4_0", "q4_k"),
    "gguf/llama_tied_bias.gguf": ("q5_1",),
    "gguf/gemma2.gguf": ("q4_1",),
    "gguf/phi3.gguf": ("q5_0",),
    "gguf/gpt2.gguf": ("q8_0",),
    "gguf/qwen3_moe.gguf": ("q4_0",),
    "gguf/mixtral.gguf": ("q6_k",),
    "gguf/gpt_oss.gguf": ("q8_0",),
    "gguf/glm4_moe_lite.gguf": ("q4_0",),
    "ggml/Q8_0.gguf": ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
}


def seen(path: Path, **settings: Any) -> tuple[list[float], list[int]]:
    """Log-probabilities of a prompt and the greedy text behind it."""
    config = EngineConfig(model_path=path, threads=2, kv_cache_memory=8 << 20, **settings)
    with InferenceEngine(config) as engine:
        params = GenerationParams(max_tokens=8, temperature=0, prompt_logprobs=0, ignore_eos=True)
        output = engine.generate(PROMPT, params)
    assert output.prompt_logprobs is not None
    return [entry.logprob for entry in output.prompt_logprobs if entry is not None], output.tokens


@pytest.mark.parametrize("dtype", ["auto", "f32"])
@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case, kinds in CASES.items() for kind in kinds])
def test_as_a_file_that_was_quantised(case: str, kind: str, dtype: str, tmp_path: Path) -> None:
    path, out = GOLDENS / case, tmp_path / "quantised.gguf"
    quantize_model(EngineConfig(model_path=path), out, kind)
    loaded = seen(path, isq=kind, dtype=dtype)
    assert loaded == seen(out, dtype=dtype)
    # And it was quantised. How near it stays, small random models cannot tell.
    assert np.isfinite(loaded[0]).all()
    assert loaded[0] != seen(path, dtype=dtype)[0]


@pytest.fixture(scope="module")
def bf16(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's weights in bfloat16."""
    out = tmp_path_factory.mktemp("bf16") / "smollm2-bf16.gguf"
    quantize_model(EngineConfig(model_path=smollm2_path), out, "bf16")
    return out


@pytest.fixture(scope="module")
def perplexity(bf16: Path) -> Callable[[str | None], float]:
    """Of the reference's texts, with a type to quantise to."""

    def of(isq: str | None) -> float:
        # Rounded activations differ by machine, and are not what is asked about here.
        config = EngineConfig(model_path=bf16, isq=isq, dtype="f32", max_sequence_length=1024)
        with InferenceEngine(config) as engine:
            params = GenerationParams(max_tokens=0, prompt_logprobs=0)
            outputs = [engine.generate(text["token_ids"], params) for text in REFERENCE["texts"]]
        all_of = [entry.logprob for o in outputs for entry in o.prompt_logprobs or () if entry is not None]
        return float(np.exp(-np.mean(all_of)))

    return of


def test_perplexity(perplexity: Callable[[str | None], float]) -> None:
    plain = perplexity(None)
    reference = np.exp(-np.mean([value for text in REFERENCE["texts"] for value in text["logprobs"]]))
    assert abs(plain / reference - 1) < 3e-3
    for kind, most in {"q8_0": 0.003, "q6_k": 0.015, "q5_1": 0.005, "q4_0": 0.08}.items():
        assert abs(perplexity(kind) / plain - 1) <= most, kind
