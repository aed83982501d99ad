"""What `quantize` writes of a Hugging Face folder is what llama.cpp's converter writes, and computes the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_vllm import EngineConfig, InferenceEngine, ModelLoadError, quantize_model

from .reference import GOLDENS, archive
from .test_goldens import TOLERANCE, worst

# Of each family that is written one case at least, and of what their configurations differ in.
CASES = [
    "llama",
    "llama_tied_bias",
    "llama_linear_rope",
    "llama_head100",
    "mistral_sliding",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "qwen3_padded_vocab",
    "gemma",
    "gemma2",
    "phi3",
    "granite",
    "smollm3",
    "arcee",
    "olmo2",
]
# Said by one of the two only: where a file came from, and what readers assume anyway.
UNSAID = ("general.", "GGUF.", "tokenizer.ggml.add_", "tokenizer.ggml.pre")
# transformers gives a named token that tokenizer.json lacks an id of its own, which no model knows. Phi-3's converter
# writes that there is no window, and no stretching.
ALSO_UNSAID = {
    "llama_tied_bias": ("tokenizer.",),
    "qwen2": ("tokenizer.",),
    "phi3": ("phi3.attention.sliding_window", "phi3.rope.scaling.original_context_length"),
}


def facts(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata, and tensors with types and values."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {
        t.name: (t.tensor_type.name, t.shape.tolist(), dequantize(t.data, t.tensor_type)) for t in reader.tensors
    }
    return keys, tensors


@pytest.mark.parametrize("case", CASES)
def test_as_the_converter_writes_it(case: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / f"{case}.gguf"
    assert quantize_model(EngineConfig(model_path=checkpoint(f"hf/{case}")), out, "bf16") == out.stat().st_size
    with InferenceEngine.builder().model_path(out).dtype("f32").threads(2).max_sequence_length(128).build() as engine:
        assert worst(engine, archive(GOLDENS / "hf" / case / "reference.npz")) <= TOLERANCE
    theirs = GOLDENS / "gguf" / f"{case}.gguf"
    if not theirs.exists():
        return
    (own_keys, own), (their_keys, their) = facts(out), facts(theirs)
    assert own.keys() == their.keys()
    for name, (kind, shape, values) in own.items():
        assert (kind, shape) == their[name][:2], name
        assert np.allclose(values, their[name][2], rtol=1e-6, atol=0), name
    unsaid = (*UNSAID, *ALSO_UNSAID.get(case, ()))
    for key in own_keys.keys() & their_keys.keys():
        if not key.startswith(unsaid):
            assert own_keys[key] == their_keys[key], key
    assert not {key for key in their_keys.keys() - own_keys.keys() if not key.startswith(unsaid)}


def test_a_family_that_is_not_written_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    for case, why in {"deepseek_v2": "DeepseekV2ForCausalLM", "llama_dynamic_rope": "rotary scaling"}.items():
        with pytest.raises(ModelLoadError, match=f"cannot be written as GGUF: .*{why}"):
            quantize_model(EngineConfig(model_path=checkpoint(f"hf/{case}")), out, "q4_0")
    assert not list(tmp_path.iterdir())
