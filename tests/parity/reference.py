"""Reads the references in tests/goldens: what transformers computed in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).parent.parent / "goldens"

HF_CASES = [
    "llama",
    "llama_config_v4",
    "llama_tied_bias",
    "llama_linear_rope",
    "llama_yarn",
    "llama_head100",
    "llama_dynamic_rope",
    "mistral_sliding",
    "qwen2",
    "qwen2_yarn",
    "qwen3",
    "qwen3_padded_vocab",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_composite",
    "gemma3n",
    "gemma4",
    "gemma4_e",
    "gemma4_moe",
    "phi",
    "phi3",
    "olmo2",
    "granite",
    "granite_swa",
    "smollm3",
    "glm4",
    "cohere2",
    "starcoder2",
    "stablelm",
    "nemotron",
    "apertus",
    "ministral3",
    "ministral3_composite",
    "ministral",
    "olmo3",
    "glm",
    "cohere",
    "gpt2",
    "gpt_neox",
    "gpt_neox_serial",
    "exaone4",
    "seed_oss",
    "arcee",
    "ernie4_5",
    "hunyuan_dense",
    "stablelm_parallel",
    "stablelm_qk_norm",
    "phi3_longrope",
    "qwen2_moe",
    "qwen3_moe",
    "mixtral",
    "granitemoe",
    "ernie4_5_moe",
    "hunyuan_moe",
    "glm4_moe",
    "gpt_oss",
    "dots1",
    "exaone_moe",
    "olmoe",
    "minimax_m2",
    "phimoe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm_moe_dsa",
    "mimo_v2_flash",
    "glm4_moe_lite",
    "llama4",
    "lfm2_moe",
]
GGUF_CASES = [case for case in HF_CASES if (GOLDENS / "gguf" / f"{case}.gguf").exists()]
GGML_TYPES = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
GGML_TYPES += ["IQ4_NL", "IQ4_XS"]
FORMATS = sorted(path.name for path in (GOLDENS / "formats").iterdir())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of each row, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    shifted: np.ndarray = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return shifted


def archive(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz."""
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


def smollm2() -> dict[str, Any]:
    """SmolLM2-135M-Instruct: chats and texts."""
    reference: dict[str, Any] = json.loads((GOLDENS / "smollm2" / "reference.json").read_text())
    return reference
