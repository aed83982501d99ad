"""A sequence's log-probabilities are the same bits however the engine runs it.

Alone, in a batch of 32 mixed lengths, prefilled in chunks of 16, of 100 and whole, after a prefix-cache hit, after a
preemption, with one thread and with two.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from candle_vllm import GenerationOutput, GenerationParams, InferenceEngine

from .reference import HF_CASES

CASES = [
    "hf/llama",
    "hf/mistral_sliding",
    "hf/qwen3",
    "hf/gemma3",
    "hf/gemma3n",
    "hf/gemma4_e",
    "hf/gemma4_moe",
    "hf/granite_swa",
    "hf/cohere",
    "hf/qwen2_moe",
    "hf/gpt_oss",
    "hf/deepseek_v2",
    "hf/deepseek_v3",
    "hf/deepseek_v32",
    "hf/glm_moe_dsa",
    "hf/mimo_v2_flash",
    "hf/llama4",
    "ggml/Q4_1",
    "ggml/Q4_K",
    "ggml/IQ4_XS",
    "formats/gptq_int4_asym",
    "formats/gptq_int4_desc_act",
    "formats/fp8_block",
]
# It has too few positions for the lengths here, and a test of its own.
SHORT = "hf/qwen2_yarn"
CASES += [case for case in (f"hf/{name}" for name in HF_CASES) if case not in (SHORT, *CASES)]

MODES = ["f32", "auto"]

RANDOM = np.random.RandomState(7)
PROMPTS = [RANDOM.randint(4, 300, size=n).tolist() for n in [230, *RANDOM.randint(1, 200, size=31)]]
PARAMS = GenerationParams(max_tokens=24, temperature=0.8, seed=11, ignore_eos=True, logprobs=0)


def bits(output: GenerationOutput) -> tuple[tuple[int, ...], list[bytes]]:
    assert output.logprobs is not None
    return tuple(output.tokens), [np.float32(entry.logprob).tobytes() for entry in output.logprobs]


def engine_of(path: Path, **settings: object) -> InferenceEngine:
    builder = InferenceEngine.builder().model_path(path).threads(2)
    builder.max_sequence_length(512).enable_prefix_cache(False)
    for name, value in settings.items():
        getattr(builder, name)(value)
    return builder.build()


@pytest.fixture(params=[(case, mode) for case in CASES for mode in MODES], ids=lambda p: f"{p[0]}-{p[1]}")
def opener(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Callable[..., InferenceEngine]:
    case, mode = request.param

    def open_engine(**settings: object) -> InferenceEngine:
        return engine_of(checkpoint(case), dtype=mode, **settings)

    return open_engine


def test_bits_are_a_function_of_the_sequence_alone(
    opener: Callable[..., InferenceEngine],
) -> None:
    with opener() as engine:
        alone = [bits(engine.generate(prompt, PARAMS)) for prompt in PROMPTS]
    with opener(max_batch_size=32) as engine:
        assert [bits(out) for out in engine.generate(PROMPTS, PARAMS)] == alone
    for chunk in (16, 100):
        with opener(max_batch_size=8, prefill_chunk_size=chunk) as engine:
            assert [bits(out) for out in engine.generate(PROMPTS, PARAMS)] == alone
    with opener(enable_chunked_prefill=False) as engine:
        assert [bits(out) for out in engine.generate(PROMPTS[:8], PARAMS)] == alone[:8]
    with opener(threads=1) as engine:
        assert [bits(out) for out in engine.generate(PROMPTS[:8], PARAMS)] == alone[:8]


@pytest.mark.parametrize("kind", ["f16", "int8", "fp8"])
@pytest.mark.parametrize("case", ["hf/qwen3", "hf/granite_swa", "hf/deepseek_v3", "hf/deepseek_v32", "ggml/Q4_K"])
def test_bits_are_the_same_in_every_cache(case: str, kind: str, checkpoint: Callable[[str], Path]) -> None:
    """Of the types that `MODES` do not take: in a batch, in chunks, after a prefix hit and on one thread."""

    def open_engine(**settings: object) -> InferenceEngine:
        return engine_of(checkpoint(case), kv_cache_dtype=kind, **settings)

    with open_engine() as engine:
        assert engine.model_info.kv_dtype == kind
        alone = [bits(engine.generate(prompt, PARAMS)) for prompt in PROMPTS[:12]]
    with open_engine(max_batch_size=8, prefill_chunk_size=100) as engine:
        assert [bits(out) for out in engine.generate(PROMPTS[:12], PARAMS)] == alone
    with open_engine(threads=1, enable_prefix_cache=True) as engine:
        for _ in range(2):
            again = engine.generate(PROMPTS[0], PARAMS)
            assert bits(again) == alone[0]
        assert again.stats.cached_tokens >= 192


def test_bits_survive_a_prefix_hit(opener: Callable[..., InferenceEngine]) -> None:
    with opener(enable_prefix_cache=True) as engine:
        first = engine.generate(PROMPTS[0], PARAMS)
        again = engine.generate(PROMPTS[0], PARAMS)
        assert first.stats.cached_tokens == 0
        assert again.stats.cached_tokens >= 192
        assert bits(again) == bits(first)


def test_bits_survive_preemption(opener: Callable[..., InferenceEngine]) -> None:
    # Prompts find room at once; answers that outgrow it are what makes running sequences give way.
    prompts = [prompt[:20] for prompt in PROMPTS[:12]]
    params = replace(PARAMS, max_tokens=150)
    with opener() as engine:
        alone = [bits(engine.generate(prompt, params)) for prompt in prompts]
        block_bytes = engine.model_info.kv_bytes // engine.model_info.kv_blocks
    with opener(max_sequence_length=288, kv_cache_memory=14 * block_bytes) as engine:
        got = [bits(out) for out in engine.generate(prompts, params)]
        assert engine.stats().preemptions > 0
        assert got == alone


@pytest.mark.parametrize("mode", MODES)
def test_bits_within_few_positions(mode: str, checkpoint: Callable[[str], Path]) -> None:
    """Of a model that has 128: in a batch, in chunks, on one thread, after a prefix hit and after a preemption."""

    def open_engine(**settings: object) -> InferenceEngine:
        return engine_of(checkpoint(SHORT), dtype=mode, max_sequence_length=128, **settings)

    prompts = [prompt[:100] for prompt in PROMPTS]
    params = replace(PARAMS, max_tokens=100)
    with open_engine() as engine:
        assert engine.model_info.max_position == 128
        alone = [bits(engine.generate(prompt, PARAMS)) for prompt in prompts]
        long = [bits(engine.generate(prompt[:20], params)) for prompt in prompts[:12]]
        block_bytes = engine.model_info.kv_bytes // engine.model_info.kv_blocks
    for settings in ({"max_batch_size": 32}, {"max_batch_size": 8, "prefill_chunk_size": 16}, {"threads": 1}):
        with open_engine(**settings) as engine:
            assert [bits(out) for out in engine.generate(prompts, PARAMS)] == alone
    with open_engine(enable_prefix_cache=True) as engine:
        again = [engine.generate(prompts[0], PARAMS) for _ in range(2)]
        assert [bits(out) for out in again] == [alone[0]] * 2
        assert again[1].stats.cached_tokens == 96
    with open_engine(kv_cache_memory=14 * block_bytes) as engine:
        got = [bits(out) for out in engine.generate([prompt[:20] for prompt in prompts[:12]], params)]
        assert engine.stats().preemptions > 0
        assert got == long
