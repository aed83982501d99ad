"""Broken GGUF files by name: each value writes one into a folder and returns the path to open.

The sound file is the golden `llama`, taken apart and written again with one thing changed.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .reference import GOLDENS

Write = Callable[[Path], Path]

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, F32, TEXT, ARRAY = 4, 6, 8, 9
BF16 = 30
ALIGN = 32


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def texts(values: list[str] | list[bytes]) -> bytes:
    return struct.pack("<IQ", TEXT, len(values)) + b"".join(text(v) for v in values)


def numbers(values: list[int], kind: int = 5) -> bytes:
    return struct.pack("<IQ", kind, len(values)) + struct.pack(f"<{len(values)}i", *values)


@dataclass
class Tensor:
    name: str
    dims: list[int]
    code: int
    data: bytes


@dataclass
class Gguf:
    """A file in pieces; `dump` notes in `marks` where each field came to lie."""

    pairs: dict[str, tuple[int, bytes]]
    tensors: list[Tensor]
    version: int = 3
    offsets: dict[str, int] = field(default_factory=dict)
    marks: dict[str, tuple[int, int]] = field(default_factory=dict)

    def put(self, key: str, kind: int, value: bytes) -> None:
        self.pairs[key] = kind, value

    def number(self, key: str, value: int) -> None:
        self.put(key, U32, struct.pack("<I", value))

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name)

    def dump(self) -> bytes:
        out = bytearray(b"GGUF")

        def add(label: str, raw: bytes) -> None:
            self.marks[label] = len(out), len(raw)
            out.extend(raw)

        add("version", struct.pack("<I", self.version))
        add("tensor count", struct.pack("<Q", len(self.tensors)))
        add("pair count", struct.pack("<Q", len(self.pairs)))
        for key, (kind, value) in self.pairs.items():
            add(f"{key}: key length", struct.pack("<Q", len(key.encode())))
            add(f"{key}: key", key.encode())
            add(f"{key}: type", struct.pack("<I", kind))
            if kind == TEXT:
                add(f"{key}: length", value[:8])
                add(f"{key}: value", value[8:])
            elif kind == ARRAY:
                add(f"{key}: element type", value[:4])
                add(f"{key}: array length", value[4:12])
                add(f"{key}: value", value[12:])
            else:
                add(f"{key}: value", value)
        at = 0
        for t in self.tensors:
            add(f"{t.name}: name length", struct.pack("<Q", len(t.name)))
            add(f"{t.name}: name", t.name.encode())
            add(f"{t.name}: dimensions", struct.pack("<I", len(t.dims)))
            add(f"{t.name}: shape", struct.pack(f"<{len(t.dims)}Q", *t.dims))
            add(f"{t.name}: code", struct.pack("<I", t.code))
            add(f"{t.name}: offset", struct.pack("<Q", self.offsets.get(t.name, at)))
            at += -(-len(t.data) // ALIGN) * ALIGN
        out.extend(bytes(-len(out) % ALIGN))
        for t in self.tensors:
            add(f"{t.name}: data", t.data)
            out.extend(bytes(-len(t.data) % ALIGN))
        return bytes(out)


def load() -> Gguf:
    """The sound file."""
    raw = (GOLDENS / "gguf" / "llama.gguf").read_bytes()
    at = 8

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return int(value)

    def piece(size: int) -> bytes:
        nonlocal at
        at += size
        return raw[at - size : at]

    def payload(kind: int) -> bytes:
        start = at
        if kind == TEXT:
            piece(take("Q"))
        elif kind == ARRAY:
            inner, count = take("I"), take("Q")
            for _ in range(count):
                payload(inner)
        else:
            piece(SIZES[kind])
        return raw[start:at]

    tensor_count, pair_count = take("Q"), take("Q")
    pairs = {}
    for _ in range(pair_count):
        key = piece(take("Q")).decode()
        kind = take("I")
        pairs[key] = kind, payload(kind)
    infos = []
    for _ in range(tensor_count):
        name = piece(take("Q")).decode()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims, take("I"), take("Q")))
    data = -(-at // ALIGN) * ALIGN
    tensors = []
    for name, dims, code, offset in infos:
        size = 2 if code == BF16 else 4
        for d in dims:
            size *= d
        tensors.append(Tensor(name, dims, code, raw[data + offset : data + offset + size]))
    return Gguf(pairs, tensors)


def changed(change: Callable[[Gguf], None]) -> Write:
    def write(folder: Path) -> Path:
        file = load()
        change(file)
        path = folder / "model.gguf"
        path.write_bytes(file.dump())
        return path

    return write


def patched(label: str, raw: bytes | None, *, middle: bool = False) -> Write:
    """The field overwritten with `raw`, or the file cut off there."""

    def write(folder: Path) -> Path:
        file = load()
        whole = file.dump()
        start, size = file.marks[label]
        start += size // 2 if middle else 0
        path = folder / "model.gguf"
        path.write_bytes(whole[:start] if raw is None else whole[:start] + raw + whole[start + len(raw) :])
        return path

    return write


FIELDS = [
    *("version", "tensor count", "pair count"),
    *("general.architecture: key length", "general.architecture: key", "general.architecture: type"),
    *("general.architecture: length", "general.architecture: value", "llama.block_count: type"),
    *("llama.block_count: value", "llama.rope.freq_base: value", "tokenizer.ggml.model: length"),
    *("tokenizer.ggml.tokens: type", "tokenizer.ggml.tokens: element type", "tokenizer.ggml.tokens: array length"),
    *("tokenizer.ggml.tokens: value", "tokenizer.ggml.token_type: array length", "tokenizer.ggml.token_type: value"),
    *("tokenizer.ggml.merges: array length", "tokenizer.ggml.merges: value", "tokenizer.ggml.eos_token_id: value"),
    *("tokenizer.chat_template: length", "tokenizer.chat_template: value"),
    *("output.weight: name length", "output.weight: name", "output.weight: dimensions", "output.weight: shape"),
    *("output.weight: code", "output.weight: offset", "output.weight: data"),
    *("blk.2.ffn_down.weight: shape", "blk.2.ffn_down.weight: data"),
]
LENGTHS = [
    *("tensor count", "pair count", "general.architecture: key length", "general.architecture: length"),
    *("tokenizer.ggml.tokens: array length", "tokenizer.ggml.token_type: array length"),
    *("tokenizer.ggml.merges: array length", "tokenizer.chat_template: length", "output.weight: name length"),
]


def bytewise() -> Iterator[tuple[str, Write]]:
    """Cut at every kind of field, and every kind of number replaced."""
    for label in FIELDS:
        yield f"cut before {label}", patched(label, None)
        yield f"cut inside {label}", patched(label, None, middle=True)
    for label in LENGTHS:
        for value in (1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            yield f"{label} = {value:#x}", patched(label, struct.pack("<Q", value))
    for label in ("tensor count", "pair count", "output.weight: name length"):
        yield f"{label} = 0", patched(label, bytes(8))
    for value in (0, 1, 4, 1 << 24, 0xFFFFFFFF):
        yield f"version = {value}", patched("version", struct.pack("<I", value))
    for label in ("llama.block_count: type", "tokenizer.ggml.tokens: element type"):
        for value in (9, 13, 255, 0xFFFFFFFF):
            yield f"{label} = {value}", patched(label, struct.pack("<I", value))
    for value in (0, 5, 0xFFFFFFFF):
        yield f"dimensions = {value}", patched("output.weight: dimensions", struct.pack("<I", value))
    for value in (0, 1, 63, 65, 1 << 32, (1 << 63) - 1, (1 << 64) - 1):
        yield f"shape = {value:#x} x 320", patched("output.weight: shape", struct.pack("<Q", value))
    for value in (4, 5, 9, 24, 31, 36, 0xFFFFFFFF):
        yield f"code = {value}", patched("output.weight: code", struct.pack("<I", value))
    for value in (1, 31, 1 << 40, (1 << 63), (1 << 64) - 32):
        yield f"offset = {value:#x}", patched("output.weight: offset", struct.pack("<Q", value))
    yield "no magic", lambda folder: rewritten(folder, lambda raw: b"GGML" + raw[4:])
    yield "another magic", lambda folder: rewritten(folder, lambda raw: b"FUGG" + raw[4:])
    yield "empty", lambda folder: rewritten(folder, lambda raw: b"")
    yield "only zeros", lambda folder: rewritten(folder, lambda raw: bytes(len(raw)))
    yield "a text", lambda folder: rewritten(folder, lambda raw: b"<!DOCTYPE html>" * 100)
    yield (
        "a pointer",
        lambda folder: rewritten(folder, lambda raw: b"version https://git-lfs.github.com/spec/v1\noid x\n"),
    )


def rewritten(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(change(load().dump()))
    return path


def contradictions() -> Iterator[tuple[str, Callable[[Gguf], None]]]:
    """Files that are well formed and cannot be meant."""
    for key, values in {
        "llama.block_count": (0, 2, 4, 1 << 31),
        "llama.embedding_length": (0, 63, 128, 1 << 30),
        "llama.feed_forward_length": (0, 96, 1 << 31),
        "llama.attention.head_count": (0, 3, 8, 1 << 20),
        "llama.attention.head_count_kv": (0, 3, 4, 8),
        "llama.attention.key_length": (0, 32, 1 << 20),
        "llama.rope.dimension_count": (0, 15, 1 << 20),
        "llama.context_length": (0,),
    }.items():
        for value in values:
            yield f"{key} = {value}", lambda f, k=key, v=value: f.number(k, v)  # type: ignore[misc]
    for key in ("llama.block_count", "llama.embedding_length", "llama.attention.head_count", "general.architecture"):
        yield f"no {key}", lambda f, k=key: drop(f, k)  # type: ignore[misc]
        yield f"{key} is a list", lambda f, k=key: f.put(k, ARRAY, numbers([1, 2]))  # type: ignore[misc]
    for base in (0.0, -1.0, float("nan"), float("inf")):
        raw = struct.pack("<f", base)
        yield f"rope base = {base}", lambda f, r=raw: f.put("llama.rope.freq_base", F32, r)  # type: ignore[misc]
    yield "an unknown architecture", lambda f: f.put("general.architecture", TEXT, text("lllama"))
    yield "alignment 0", lambda f: f.number("general.alignment", 0)
    yield "alignment 48", lambda f: f.number("general.alignment", 48)
    yield "alignment 2 GiB", lambda f: f.number("general.alignment", 1 << 31)
    for name in ("token_embd.weight", "output_norm.weight", "blk.1.attn_q.weight", "blk.2.ffn_norm.weight"):
        yield f"no {name}", lambda f, n=name: f.tensors.remove(f.tensor(n))  # type: ignore[misc]
        yield f"{name} of one row less", lambda f, n=name: shorter(f.tensor(n))  # type: ignore[misc]
    yield "a tensor of another model", lambda f: setattr(f.tensor("blk.2.ffn_up.weight"), "name", "blk.2.ssm_in.weight")
    yield "a layer too far", lambda f: setattr(f.tensor("blk.2.ffn_up.weight"), "name", "blk.7.ffn_up.weight")
    yield "two of a name", lambda f: setattr(f.tensor("blk.1.ffn_up.weight"), "name", "blk.2.ffn_up.weight")
    yield "an overlap", lambda f: f.offsets.update({"token_embd.weight": 64})
    yield "the same place", lambda f: f.offsets.update({"blk.1.attn_q.weight": 64, "blk.1.attn_v.weight": 64})


def drop(file: Gguf, key: str) -> None:
    del file.pairs[key]


def shorter(tensor: Tensor) -> None:
    tensor.dims[-1] -= 1


def vocabularies() -> Iterator[tuple[str, Callable[[Gguf], None]]]:
    tokens, merges, kinds = (f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "token_type"))
    for key in (tokens, "tokenizer.ggml.model"):
        yield f"no {key}", lambda f, k=key: drop(f, k)  # type: ignore[misc]
    yield "an unknown tokenizer", lambda f: f.put("tokenizer.ggml.model", TEXT, text("word2vec"))
    yield "an unknown pre", lambda f: f.put("tokenizer.ggml.pre", TEXT, text("no-such-splitter"))
    yield "no tokens", lambda f: f.put(tokens, ARRAY, texts([]))
    yield "few tokens", lambda f: f.put(tokens, ARRAY, texts(["a", "b"]))
    yield "tokens twice", lambda f: f.put(tokens, ARRAY, texts(["a"] * 320))
    yield "too many tokens", lambda f: f.put(tokens, ARRAY, texts([f"t{i}" for i in range(400)]))
    yield "tokens of numbers", lambda f: f.put(tokens, ARRAY, numbers(list(range(320))))
    yield "tokens that are no text", lambda f: f.put(tokens, ARRAY, texts([b"\xff\xfe"] * 320))
    yield "kinds of too few", lambda f: f.put(kinds, ARRAY, numbers([1, 1]))
    yield "kinds of text", lambda f: f.put(kinds, ARRAY, texts(["x"] * 320))
    yield "merges of one word", lambda f: f.put(merges, ARRAY, texts(["ab"]))
    yield "merges of unknown tokens", lambda f: f.put(merges, ARRAY, texts(["qqq zzz"]))
    yield "merges of numbers", lambda f: f.put(merges, ARRAY, numbers([1]))
    yield "eos out of range", lambda f: f.number("tokenizer.ggml.eos_token_id", 1 << 30)
    yield "bos below 0", lambda f: f.put("tokenizer.ggml.bos_token_id", 5, struct.pack("<i", -1))


def split(change: Callable[[list[Gguf]], None] = lambda parts: None, *, keep: int = 2, cut: bool = False) -> Write:
    """Two files of one model."""

    def write(folder: Path) -> Path:
        whole = load()
        first, second = Gguf(dict(whole.pairs), whole.tensors[:20]), Gguf({}, whole.tensors[20:])
        for number, part in enumerate((first, second)):
            part.put("split.no", 2, struct.pack("<H", number))
            part.put("split.count", 2, struct.pack("<H", 2))
            part.put("split.tensors.count", 5, struct.pack("<i", len(whole.tensors)))
        change([first, second])
        for number, part in enumerate([first, second][:keep]):
            raw = part.dump()
            raw = raw[: len(raw) // 2] if cut and number == 1 else raw
            (folder / f"model-{number + 1:05}-of-00002.gguf").write_bytes(raw)
        return folder / "model-00001-of-00002.gguf"

    return write


def short(value: int) -> bytes:
    return struct.pack("<H", value)


def splits() -> Iterator[tuple[str, Write]]:
    yield "split: the second is missing", split(keep=1)
    yield "split: the second is cut", split(cut=True)
    yield "split: a count of 3", split(lambda p: p[0].put("split.count", 2, short(3)))
    yield "split: a count of 65535", split(lambda p: p[0].put("split.count", 2, short(65535)))
    yield "split: the same number twice", split(lambda p: p[1].put("split.no", 2, short(0)))
    yield "split: the wrong way round", split(lambda p: p[0].put("split.no", 2, short(1)))
    yield "split: too many tensors", split(lambda p: p[0].put("split.tensors.count", 5, struct.pack("<i", 99)))
    yield "split: a tensor in both", split(lambda p: p[1].tensors.append(p[0].tensors[3]))
    yield "split: a tensor lost", split(lambda p: p[1].tensors.remove(p[1].tensors[-1]))
    yield "split: no numbers in the second", split(lambda p: p[1].pairs.clear())


CASES: dict[str, Write] = dict(bytewise())
CASES |= {name: changed(change) for name, change in (*contradictions(), *vocabularies())}
CASES |= dict(splits())
