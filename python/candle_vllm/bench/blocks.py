"""Random weights in GGUF's tensor types: bytes whose dequantised values have mean 0 and a given standard deviation.

Layouts are those of ggml's block structures (ggml-common.h). Knows nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from candle_vllm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Random = np.random.Generator

_K_SCALE_RMS = 48.39
"""Root mean square of the whole numbers from 32 to 63, which are the scales within a K block here."""


def numpy() -> Any:
    """The numpy module; raises ConfigError where it is not installed."""
    try:
        import numpy as module
    except ImportError:
        raise ConfigError("bench make-model needs numpy, which is not installed: pip install numpy") from None
    return module


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor type: its number in GGUF, weights and bytes of a block, and how random blocks are made."""

    name: str
    code: int
    weights: int
    size: int
    make: Callable[[Random, int, float], Bytes]
    """(random, blocks, standard deviation) -> uint8 [blocks, size]."""


def _plain(kind: str) -> Callable[[Random, int, float], Bytes]:
    def make(random: Random, blocks: int, std: float) -> Bytes:
        np = numpy()
        # Uniform, not normal: several times faster to draw, and a matrix product makes it normal anyway.
        values = (random.random(blocks, dtype=np.float32) - np.float32(0.5)) * np.float32(std * 12**0.5)
        if kind == "bf16":
            bits = (values.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)
            values = bits.astype("<u2")
        else:
            values = values.astype(kind)
        made: Bytes = values.view(np.uint8).reshape(blocks, -1)
        return made

    return make


def _half(values: Any) -> Bytes:
    np = numpy()
    made: Bytes = values.astype("<f2").view(np.uint8).reshape(-1, 2)
    return made


def _scales(random: Random, blocks: int, scale: float, signed: bool) -> Any:
    """Scales around ``scale`` that differ by block, with a root mean square of ``scale``."""
    scales = random.uniform(0.5, 1.5, blocks) * (scale / (1 + 1 / 12) ** 0.5)
    if signed:
        # Whole numbers from -8 to 7 have a mean of -1/2; the sign takes it out of the sum over blocks.
        scales *= random.integers(0, 2, blocks) * 2 - 1
    return scales


def _legacy(bits: int, minimum: bool) -> Callable[[Random, int, float], Bytes]:
    """Q4_0, Q4_1, Q5_0 and Q5_1: scale, least value, high bits, low nibbles."""

    def make(random: Random, blocks: int, std: float) -> Bytes:
        np = numpy()
        levels = 2**bits
        spread = ((levels**2 - 1) / 12 + (0 if minimum else 0.25)) ** 0.5
        scale = _scales(random, blocks, std / spread, signed=not minimum)
        parts = [_half(scale)]
        if minimum:
            parts.append(_half(scale * (-(levels - 1) / 2)))
        parts.append(random.integers(0, 256, (blocks, 16 + (4 if bits == 5 else 0)), dtype=np.uint8))
        made: Bytes = np.concatenate(parts, axis=1)
        return made

    return make


def _q8_0(random: Random, blocks: int, std: float) -> Bytes:
    np = numpy()
    values = random.integers(-127, 128, (blocks, 32), dtype=np.int8)
    scale = _scales(random, blocks, std / ((255**2 - 1) / 12) ** 0.5, signed=False)
    made: Bytes = np.concatenate([_half(scale), values.view(np.uint8)], axis=1)
    return made


def _k_scales(random: Random, blocks: int) -> Bytes:
    """Eight 6-bit scales of 32 to 63 and eight equal 6-bit minimums, packed into 12 bytes."""
    np = numpy()
    scales = random.integers(32, 64, (blocks, 8), dtype=np.uint8)
    low, high = scales[:, :4], scales[:, 4:]
    first = low | (high >> 4 << 6)
    made: Bytes = np.concatenate([first, first, (high & 15) | (high & 15) << 4], axis=1)
    return made


def _k_minimum(bits: int) -> Callable[[Random, int, float], Bytes]:
    """Q4_K and Q5_K: scale, scale of the minimums, packed scales, high bits, low nibbles."""

    def make(random: Random, blocks: int, std: float) -> Bytes:
        np = numpy()
        levels = 2**bits
        scale = _scales(random, blocks, std / (_K_SCALE_RMS * ((levels**2 - 1) / 12) ** 0.5), signed=False)
        quants = random.integers(0, 256, (blocks, 128 + (32 if bits == 5 else 0)), dtype=np.uint8)
        parts = [_half(scale), _half(scale * ((levels - 1) / 2)), _k_scales(random, blocks), quants]
        made: Bytes = np.concatenate(parts, axis=1)
        return made

    return make


def _q2_k(random: Random, blocks: int, std: float) -> Bytes:
    np = numpy()
    nibbles = random.integers(8, 16, (blocks, 16), dtype=np.uint8)
    scale = _scales(random, blocks, std / (11.73 * 1.25**0.5), signed=False)
    quants = random.integers(0, 256, (blocks, 64), dtype=np.uint8)
    made: Bytes = np.concatenate([nibbles | nibbles << 4, quants, _half(scale), _half(scale * 1.5)], axis=1)
    return made


def _q3_k(random: Random, blocks: int, std: float) -> Bytes:
    np = numpy()
    # High bits, low bits and 6-bit scales from -32 to 31: any bytes will do.
    quants = random.integers(0, 256, (blocks, 108), dtype=np.uint8)
    scale = _scales(random, blocks, std / (18.48 * 5.5**0.5), signed=False)
    made: Bytes = np.concatenate([quants, _half(scale)], axis=1)
    return made


def _q6_k(random: Random, blocks: int, std: float) -> Bytes:
    np = numpy()
    quants = random.integers(0, 256, (blocks, 192), dtype=np.uint8)
    signs = random.integers(0, 2, (blocks, 16), dtype=np.int8) * np.int8(2) - np.int8(1)
    scales = random.integers(64, 128, (blocks, 16), dtype=np.int8) * signs
    scale = _scales(random, blocks, std / (97.27 * 341.5**0.5), signed=False)
    made: Bytes = np.concatenate([quants, scales.view(np.uint8), _half(scale)], axis=1)
    return made


TYPES = {
    kind.name: kind
    for kind in (
        TensorType("F32", 0, 1, 4, _plain("<f4")),
        TensorType("F16", 1, 1, 2, _plain("<f2")),
        TensorType("BF16", 30, 1, 2, _plain("bf16")),
        TensorType("Q4_0", 2, 32, 18, _legacy(4, minimum=False)),
        TensorType("Q4_1", 3, 32, 20, _legacy(4, minimum=True)),
        TensorType("Q5_0", 6, 32, 22, _legacy(5, minimum=False)),
        TensorType("Q5_1", 7, 32, 24, _legacy(5, minimum=True)),
        TensorType("Q8_0", 8, 32, 34, _q8_0),
        TensorType("Q2_K", 10, 256, 84, _q2_k),
        TensorType("Q3_K", 11, 256, 110, _q3_k),
        TensorType("Q4_K", 12, 256, 144, _k_minimum(4)),
        TensorType("Q5_K", 13, 256, 176, _k_minimum(5)),
        TensorType("Q6_K", 14, 256, 210, _q6_k),
    )
}
"""Tensor types by name."""
