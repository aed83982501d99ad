"""Random-weight GGUF checkpoints of named shapes, for measuring without a download. llama.cpp loads them too.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3. Tensors are made and written piece by
piece. Must not know of engines.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from candle_vllm import checks
from candle_vllm.bench import vocabulary
from candle_vllm.bench.blocks import TYPES, numpy
from candle_vllm.bench.shapes import QUANTS, SHAPES, Shape, Tensor, tensors
from candle_vllm.errors import ConfigError

__all__ = ["make_model"]

_ALIGNMENT = 32
_PIECE = 8 << 20
"""Bytes made at a time."""

Progress = Callable[[int, int], None]


def make_model(
    shape: str, quant: str, out: Path, *, seed: int = 0, force: bool = False, progress: Progress | None = None
) -> int:
    """Write the checkpoint and return its size in bytes.

    ``shape`` is one of `SHAPES`, ``quant`` one of `QUANTS`; the same arguments and seed give the same bytes.
    ``progress(done, total)`` hears of bytes. ``out`` appears only when it is complete; an existing file is an error
    without ``force``. Raises ConfigError and OSError.
    """
    numpy()
    if shape not in SHAPES:
        checks.refuse("shape", shape, f"one of {', '.join(SHAPES)}")
    if quant not in QUANTS:
        checks.refuse("quant", quant, f"one of {', '.join(QUANTS)}")
    if out.exists() and not force:
        checks.refuse("out", str(out), "a new file, or force set to replace the one that is there")
    if not out.parent.is_dir():
        checks.refuse("out", str(out), "in a folder that exists")
    listed = list(tensors(SHAPES[shape], quant))
    header = _header(shape, quant, listed)
    total = len(header) + sum(_padded(tensor.size) for tensor in listed)
    free = shutil.disk_usage(out.parent).free
    if free < total:
        expected = f"where {total / 1e6:,.0f} MB are free, which the file takes"
        raise ConfigError(
            f"out must be {expected}; got {out} with {free / 1e6:,.0f} MB", field="out", value=out, expected=expected
        )
    partial = out.with_name(out.name + ".partial")
    try:
        with partial.open("wb") as file:
            _write(file, header, listed, seed, total, progress)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _write(
    file: BinaryIO, header: bytes, listed: list[Tensor], seed: int, total: int, progress: Progress | None
) -> None:
    done = file.write(header)
    for tensor in listed:
        for piece in _pieces(tensor, seed):
            done += file.write(piece)
            if progress is not None:
                progress(done, total)
        done += file.write(bytes(_padded(tensor.size) - tensor.size))


def _pieces(tensor: Tensor, seed: int) -> Iterator[bytes]:
    """The tensor's bytes, some blocks at a time."""
    np = numpy()
    if tensor.std is None:
        yield np.ones(tensor.columns, dtype="<f4").tobytes()
        return
    kind = TYPES[tensor.type]
    # A stream of its own by name: a tensor's bytes do not depend on what was made before it.
    random = np.random.default_rng([seed, zlib.crc32(tensor.name.encode())])
    step = max(_PIECE // kind.size, 1)
    for first in range(0, tensor.blocks, step):
        count = min(step, tensor.blocks - first)
        yield kind.make(random, count, tensor.std).tobytes()


def _header(name: str, quant: str, listed: list[Tensor]) -> bytes:
    """Everything before the tensors' bytes, padded."""
    shape = SHAPES[name]
    fields = _fields(name, shape, quant)
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(listed), len(fields)), *fields]
    offset = 0
    for tensor in listed:
        dims = tensor.dims
        parts.append(_text(tensor.name) + struct.pack("<I", len(dims)))
        parts.append(struct.pack(f"<{len(dims)}QIQ", *dims, TYPES[tensor.type].code, offset))
        offset += _padded(tensor.size)
    whole = b"".join(parts)
    return whole + bytes(_padded(len(whole)) - len(whole))


def _fields(name: str, shape: Shape, quant: str) -> list[bytes]:
    """The metadata, one entry a key."""
    words = vocabulary.build(shape.vocabulary)
    arch = shape.architecture
    return [
        _string("general.architecture", arch),
        _string("general.name", f"random weights, {name}"),
        _uint("general.file_type", QUANTS[quant]),
        _uint("general.quantization_version", 2),
        _uint("general.alignment", _ALIGNMENT),
        _uint(f"{arch}.block_count", shape.layers),
        _uint(f"{arch}.context_length", shape.context),
        _uint(f"{arch}.embedding_length", shape.hidden),
        _uint(f"{arch}.feed_forward_length", shape.intermediate),
        *([] if not shape.experts else _expert_fields(shape)),
        _uint(f"{arch}.attention.head_count", shape.heads),
        _uint(f"{arch}.attention.head_count_kv", shape.kv_heads),
        _uint(f"{arch}.attention.key_length", shape.head_dim),
        _uint(f"{arch}.attention.value_length", shape.head_dim),
        _uint(f"{arch}.rope.dimension_count", shape.head_dim),
        _uint(f"{arch}.vocab_size", shape.vocabulary),
        _float(f"{arch}.attention.layer_norm_rms_epsilon", 1e-6),
        _float(f"{arch}.rope.freq_base", shape.rope_base),
        _string("tokenizer.ggml.model", "gpt2"),
        _string("tokenizer.ggml.pre", "gpt-2"),
        _texts("tokenizer.ggml.tokens", words.tokens),
        _ints("tokenizer.ggml.token_type", words.types),
        _texts("tokenizer.ggml.merges", words.merges),
        _uint("tokenizer.ggml.bos_token_id", words.bos),
        _uint("tokenizer.ggml.eos_token_id", words.eos),
        _uint("tokenizer.ggml.unknown_token_id", words.unknown),
        _key("tokenizer.ggml.add_bos_token", 7) + b"\0",
        _string("tokenizer.chat_template", vocabulary.CHAT_TEMPLATE),
    ]


def _expert_fields(shape: Shape) -> list[bytes]:
    arch = shape.architecture
    return [
        _uint(f"{arch}.expert_count", shape.experts),
        _uint(f"{arch}.expert_used_count", shape.experts_used),
        _uint(f"{arch}.expert_feed_forward_length", shape.intermediate),
    ]


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _key(name: str, kind: int) -> bytes:
    return _text(name) + struct.pack("<I", kind)


def _uint(name: str, value: int) -> bytes:
    return _key(name, 4) + struct.pack("<I", value)


def _float(name: str, value: float) -> bytes:
    return _key(name, 6) + struct.pack("<f", value)


def _string(name: str, value: str) -> bytes:
    return _key(name, 8) + _text(value)


def _texts(name: str, values: list[str]) -> bytes:
    return _key(name, 9) + struct.pack("<IQ", 8, len(values)) + b"".join(map(_text, values))


def _ints(name: str, values: list[int]) -> bytes:
    return _key(name, 9) + struct.pack(f"<IQ{len(values)}i", 5, len(values), *values)
