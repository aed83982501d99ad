"""Named model shapes: what tensors a random-weight checkpoint holds and which type each has.

Which tensor gets which type follows llama.cpp's `llama-quantize`. Knows nothing of bytes or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from candle_vllm.bench.blocks import TYPES

__all__ = ["QUANTS", "SHAPES", "Shape", "Tensor", "tensors"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder-only model."""

    architecture: str
    """GGUF's name: `llama`, or `qwen3` and `qwen3moe`, which also normalise queries and keys by head."""
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_base: float
    tied: bool
    """Whether the embedding is the output matrix too."""
    experts: int = 0
    """Of each layer; 0 = one plain feed-forward network."""
    experts_used: int = 0
    """Of them for a token; `intermediate` is the width of one."""


SHAPES = {
    "smollm2-135m": Shape("llama", 30, 576, 1536, 9, 3, 64, 49_152, 8_192, 100_000.0, tied=True),
    "qwen3-0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, 128, 49_152, 40_960, 1_000_000.0, tied=True),
    "llama-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128_256, 131_072, 500_000.0, tied=True),
    "qwen3-moe-small": Shape(
        "qwen3moe", 12, 1024, 768, 16, 8, 128, 49_152, 40_960, 1_000_000.0, tied=True, experts=16, experts_used=4
    ),
    "tiny-moe": Shape("qwen3moe", 2, 256, 256, 4, 2, 64, 1024, 4_096, 10_000.0, tied=False, experts=4, experts_used=2),
    "tiny": Shape("llama", 4, 256, 512, 4, 2, 64, 1024, 4_096, 10_000.0, tied=False),
}
"""Shapes by name. Qwen3's vocabulary is cut to 49,152 so that the layers are what is measured."""

QUANTS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 14,
    "Q4_K_M": 15, "Q5_K": 16, "Q6_K": 18, "BF16": 32,
}  # fmt: skip
"""What a file can be made of, and its number as `general.file_type`."""

_FLOATS = ("F32", "F16", "BF16")
# Rows that are no whole number of 256 weights cannot be K blocks.
_INSTEAD = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: name, rows of so many weights, type; ``std`` None = ones (a norm)."""

    name: str
    columns: int
    rows: int | None
    """None for a vector."""
    type: str
    std: float | None
    matrices: int | None = None
    """One behind the other, one an expert; None for a plain matrix."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes as GGUF lists them, the innermost first."""
        return tuple(size for size in (self.columns, self.rows, self.matrices) if size is not None)

    @property
    def blocks(self) -> int:
        """Blocks of its type."""
        return math.prod(self.dims) // TYPES[self.type].weights

    @property
    def size(self) -> int:
        """Bytes."""
        return self.blocks * TYPES[self.type].size


def tensors(shape: Shape, quant: str) -> Iterator[Tensor]:
    """The tensors of a file of ``quant``, one of `QUANTS`, in their order."""
    base = "Q4_K" if quant == "Q4_K_M" else quant
    top = base if base in (*_FLOATS, "Q8_0") else "Q6_K"
    embedding = top if shape.tied else base
    yield _matrix("token_embd.weight", shape.hidden, shape.vocabulary, embedding)
    for layer in range(shape.layers):
        yield from _layer(shape, layer, base, mixed=quant == "Q4_K_M")
    yield Tensor("output_norm.weight", shape.hidden, None, "F32", None)
    if not shape.tied:
        yield _matrix("output.weight", shape.hidden, shape.vocabulary, top)


def _layer(shape: Shape, layer: int, base: str, mixed: bool) -> Iterator[Tensor]:
    at = f"blk.{layer}."
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    fine = "Q6_K" if mixed and _more_bits(layer, shape.layers) else base
    yield Tensor(at + "attn_norm.weight", shape.hidden, None, "F32", None)
    yield _matrix(at + "attn_q.weight", shape.hidden, queries, base)
    yield _matrix(at + "attn_k.weight", shape.hidden, keys, base)
    yield _matrix(at + "attn_v.weight", shape.hidden, keys, fine)
    yield _matrix(at + "attn_output.weight", queries, shape.hidden, base)
    if shape.architecture.startswith("qwen3"):
        yield Tensor(at + "attn_q_norm.weight", shape.head_dim, None, "F32", None)
        yield Tensor(at + "attn_k_norm.weight", shape.head_dim, None, "F32", None)
    yield Tensor(at + "ffn_norm.weight", shape.hidden, None, "F32", None)
    of, count = ("_exps", shape.experts) if shape.experts else ("", None)
    if shape.experts:
        # The router stays exact, as llama.cpp keeps it.
        yield _matrix(at + "ffn_gate_inp.weight", shape.hidden, shape.experts, "F32")
    yield _matrix(f"{at}ffn_gate{of}.weight", shape.hidden, shape.intermediate, base, count)
    yield _matrix(f"{at}ffn_up{of}.weight", shape.hidden, shape.intermediate, base, count)
    yield _matrix(f"{at}ffn_down{of}.weight", shape.intermediate, shape.hidden, fine, count)


def _more_bits(layer: int, layers: int) -> bool:
    """Layers whose values and down projections Q4_K_M keeps in Q6_K: the ends, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _matrix(name: str, columns: int, rows: int, kind: str, count: int | None = None) -> Tensor:
    """A matrix, or ``count`` of them, whose products with unit-variance vectors have unit variance."""
    if columns % TYPES[kind].weights:
        kind = _INSTEAD[kind]
    return Tensor(name, columns, rows, kind, columns**-0.5, count)
