"""Broken checkpoints of safetensors by name: each value writes one into a folder and returns the folder.

The sound one is the golden `llama`; those of quantised weights are made by `formats`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import formats

Make = Callable[[Path, Path], Path]
Header = dict[str, Any]

HEAD = "lm_head.weight"
STATE = "weight.quant_state.bitsandbytes__nf4"


def copied(sound: Path, folder: Path) -> Path:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / file).write_bytes((sound / file).read_bytes())
    return folder


def taken_apart(path: Path) -> tuple[Header, bytes]:
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def put_together(path: Path, header: bytes, body: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)


def header(change: Callable[[Header], object]) -> Make:
    def make(sound: Path, folder: Path) -> Path:
        path = copied(sound, folder) / "model.safetensors"
        own, body = taken_apart(path)
        change(own)
        put_together(path, json.dumps(own).encode(), body)
        return folder

    return make


def raw(change: Callable[[bytes], bytes], file: str = "model.safetensors") -> Make:
    def make(sound: Path, folder: Path) -> Path:
        path = copied(sound, folder) / file
        path.write_bytes(change(path.read_bytes()))
        return folder

    return make


def config(change: Callable[[dict[str, Any]], object], file: str = "config.json") -> Make:
    def apply(content: bytes) -> bytes:
        own = json.loads(content)
        change(own)
        return json.dumps(own).encode()

    return raw(apply, file)


def headers() -> Iterator[tuple[str, Make]]:
    for size in (0, 1, 1 << 20, 1 << 31, (1 << 63) - 1, (1 << 64) - 1):
        yield f"header of {size:#x} bytes", raw(lambda b, s=size: s.to_bytes(8, "little") + b[8:])  # type: ignore[misc]
    for end in (0, 4, 8, 9, 100):
        yield f"cut at byte {end}", raw(lambda b, e=end: b[:e])  # type: ignore[misc]
    yield "cut inside the header", raw(lambda b: b[: 8 + int.from_bytes(b[:8], "little") // 2])
    yield "cut after the header", raw(lambda b: b[: 8 + int.from_bytes(b[:8], "little")])
    yield "cut inside the data", raw(lambda b: b[:-100])
    yield "bytes behind the data", raw(lambda b: b + bytes(100))
    yield "a header that is no JSON", raw(lambda b: b[:9] + b"}" + b[10:])
    yield "a header that is no text", raw(lambda b: b[:20] + b"\xff\xfe" + b[22:])
    yield "a header that is a list", raw(lambda b: (2).to_bytes(8, "little") + b"[]")
    yield "a header of nothing", raw(lambda b: (2).to_bytes(8, "little") + b"{}")
    yield "a header nested deeply", raw(lambda b: (200_000).to_bytes(8, "little") + b'{"a":' * 40_000)
    yield "a web page", raw(lambda b: b"<!DOCTYPE html>" * 100)
    yield "a pointer", raw(lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    yield "a name twice", raw(twice)


def twice(content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    head, body = content[8 : 8 + size], content[8 + size :]
    head = head.rstrip()[:-1] + b',"lm_head.weight":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}'
    return len(head).to_bytes(8, "little") + head + body


def entries() -> Iterator[tuple[str, Make]]:
    for dtype in ("F32", "F8_E4M3", "I32", "BOOL", "F64", "bf16", "", "Q4_0", 16, None):
        yield f"dtype {dtype!r}", header(lambda h, d=dtype: h[HEAD].update(dtype=d))  # type: ignore[misc]
    shapes: list[Any] = [
        [],
        [64],
        [320, 63],
        [64, 320],
        [320, 64, 1],
        [0, 64],
        [1 << 32, 1 << 32],
        [-1, 64],
        [(1 << 64) - 1, 64],
    ]
    for shape in [*shapes, "320 x 64", None, [320.5, 64]]:
        yield f"shape {shape}", header(lambda h, s=shape: h[HEAD].update(shape=s))  # type: ignore[misc]
    spans: list[Any] = [
        [0, 0],
        [1, 0],
        [-1, 10],
        [0, 1 << 63],
        [(1 << 64) - 1, (1 << 64) - 1],
        [0],
        [0, 1, 2],
        "0",
        None,
    ]
    for span in spans:
        yield f"offsets {span}", header(lambda h, s=span: h[HEAD].update(data_offsets=s))  # type: ignore[misc]
    for key in ("dtype", "shape", "data_offsets"):
        yield f"no {key}", header(lambda h, k=key: h[HEAD].pop(k))  # type: ignore[misc]
    yield "an overlap", header(lambda h: h[HEAD].update(data_offsets=h["model.embed_tokens.weight"]["data_offsets"]))
    yield "a gap", header(lambda h: h.pop("model.norm.weight"))
    for name in (
        HEAD,
        "model.norm.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
    ):
        yield f"no {name}", header(lambda h, n=name: renamed(h, n, "nothing.weight"))  # type: ignore[misc]
    yield "a tensor of another model", header(lambda h: renamed(h, HEAD, "model.layers.0.mixer.A_log"))
    yield (
        "a layer too far",
        header(lambda h: renamed(h, "model.layers.2.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight")),
    )


def renamed(own: Header, old: str, new: str) -> None:
    own[new] = own.pop(old)


def configs() -> Iterator[tuple[str, Make]]:
    for key, values in {
        "num_hidden_layers": (0, 2, 4, -1, "three", 1 << 40),
        "hidden_size": (0, 63, 128, 1 << 40),
        "intermediate_size": (0, 96, None),
        "num_attention_heads": (0, 3, 8, 1 << 40),
        "num_key_value_heads": (0, 3, 4, 8),
        "head_dim": (0, 15, 32, 1 << 40),
        "vocab_size": (0, 319, 1 << 40, "many"),
        "rms_norm_eps": ("x", -1),
        "max_position_embeddings": (0, -5),
        "hidden_act": ("gelu_of_nobody", 7),
        "architectures": ([], ["GPT9000ForCausalLM"], 5),
        "rope_parameters": (
            {"rope_type": "spiral", "rope_theta": 1e4},
            {"rope_type": "yarn", "factor": 0},
            [1],
            {"rope_theta": -1},
        ),
        "tie_word_embeddings": ("yes",),
        "quantization_config": ({"quant_method": "gptq", "bits": 3}, {"quant_method": "quip"}, [], {"bits": 4}),
    }.items():
        for value in values:
            yield f"config: {key} = {value}", config(lambda c, k=key, v=value: c.update({k: v}))  # type: ignore[misc]
    yield "config: not JSON", raw(lambda b: b[:-20], "config.json")
    yield "config: a list", raw(lambda b: b"[]", "config.json")
    yield "config: empty", raw(lambda b: b"", "config.json")
    yield "config: nested deeply", raw(lambda b: b'{"a":' * 100_000, "config.json")
    yield "tokenizer: not JSON", raw(lambda b: b[:-20], "tokenizer.json")
    yield "tokenizer: empty", raw(lambda b: b"", "tokenizer.json")
    yield "tokenizer: no model", config(lambda c: c.pop("model"), "tokenizer.json")
    yield "tokenizer: an unknown model", config(lambda c: c["model"].update(type="Oracle"), "tokenizer.json")
    yield "tokenizer: merges of unknown tokens", config(lambda c: c["model"].update(merges=["qq zz"]), "tokenizer.json")


def shards(change: Callable[[dict[str, Any], Path], object]) -> Make:
    """Two shards and their index."""

    def make(sound: Path, folder: Path) -> Path:
        path = copied(sound, folder) / "model.safetensors"
        own, body = taken_apart(path)
        path.unlink()
        own.pop("__metadata__", None)
        names = sorted(own)
        index: dict[str, Any] = {"weight_map": {}}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"model-{number + 1:05}-of-00002.safetensors"
            head, data = {}, b""
            for name in part:
                start, end = own[name]["data_offsets"]
                head[name] = own[name] | {"data_offsets": [len(data), len(data) + end - start]}
                data += body[start:end]
                index["weight_map"][name] = file
            put_together(folder / file, json.dumps(head).encode(), data)
        change(index, folder)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder

    return make


def sharded() -> Iterator[tuple[str, Make]]:
    second = "model-00002-of-00002.safetensors"
    yield "shards: one missing", shards(lambda i, f: (f / second).unlink())
    yield "shards: one cut", shards(lambda i, f: (f / second).write_bytes((f / second).read_bytes()[:-7]))
    yield "shards: one empty", shards(lambda i, f: (f / second).write_bytes(b""))
    yield "shards: no map", shards(lambda i, f: i.clear())
    yield "shards: an empty map", shards(lambda i, f: i.update(weight_map={}))
    yield "shards: a map of numbers", shards(lambda i, f: i.update(weight_map={HEAD: 7}))
    yield "shards: a tensor in the wrong one", shards(lambda i, f: i["weight_map"].update({HEAD: second}))
    yield "shards: a tensor of none", shards(lambda i, f: i["weight_map"].update({"model.extra.weight": second}))
    yield "shards: a tensor left out", shards(lambda i, f: i["weight_map"].pop("model.norm.weight"))
    for name in ("../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", "pytorch_model.bin"):
        yield f"shards: {name!r}", shards(lambda i, f, n=name: i["weight_map"].update({HEAD: n}))  # type: ignore[misc]


def coded(case: str, change: Callable[[dict[str, formats.Part], dict[str, Any]], object]) -> Make:
    """A quantised checkpoint with the parts of one weight, or the settings, changed."""

    def make(sound: Path, folder: Path) -> Path:
        path, _ = formats.write(case, folder)
        own, body = taken_apart(path / "model.safetensors")
        types = {"I32": np.int32, "F16": np.float16, "F32": np.float32, "I64": np.int64, "I8": np.int8}
        tensors: dict[str, formats.Part] = {}
        for name, info in own.items():
            start, end = info["data_offsets"]
            array = np.frombuffer(body[start:end], types.get(info["dtype"], np.uint8)).reshape(info["shape"])
            tensors[name] = info["dtype"], array
        prefix = "model.layers.1.mlp.down_proj."
        parts = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        settings = json.loads((path / "config.json").read_text())
        change(parts, settings["quantization_config"])
        formats.save(path / "model.safetensors", tensors | {prefix + name: part for name, part in parts.items()})
        (path / "config.json").write_text(json.dumps(settings))
        return path

    return make


def quantised() -> Iterator[tuple[str, Make]]:
    for case, (_, maker) in formats.CASES.items():
        if case not in (
            "gptq_4",
            "awq",
            "ct_4_asym",
            "ct_int8_asym",
            "fp8_tensor",
            "fp8_uneven_blocks",
            "bnb_nf4_nested",
        ):
            continue
        parts, _ = maker(np.random.RandomState(0), 64, 128)
        for part in parts:
            if part in ("g_idx", "weight_zero_point"):
                continue
            yield f"{case}: no {part}", coded(case, lambda p, s, n=part: p.pop(n))  # type: ignore[misc]
        for part, (dtype, array) in parts.items():
            if array.ndim and "quant_state" not in part:
                yield (
                    f"{case}: {part} with a row less",
                    coded(case, lambda p, s, n=part: p.update({n: (p[n][0], p[n][1][:-1])})),  # type: ignore[misc]
                )
            yield (
                f"{case}: {part} of {'BF16' if dtype != 'BF16' else 'F16'} in place of {dtype}",
                coded(case, lambda p, s, n=part: p.update({n: ("BF16", np.zeros((2, 3, 5), np.uint16))})),  # type: ignore[misc]
            )
    wild = np.full(512, 1 << 30, np.int32)
    yield "gptq: groups out of range", coded("gptq_4", lambda p, s: p.update(g_idx=("I32", wild)))
    yield "gptq: negative groups", coded("gptq_4", lambda p, s: p.update(g_idx=("I32", -wild)))
    yield "gptq as awq", coded("gptq_4", lambda p, s: s.update(quant_method="awq", version="gemm"))
    yield "gptq as fp8", coded("gptq_4", lambda p, s: s.update(quant_method="fp8"))
    yield "awq of 8 bits", coded("awq", lambda p, s: s.update(bits=8))
    yield (
        "fp8 of another shape of blocks",
        coded("fp8_uneven_blocks", lambda p, s: s.update(weight_block_size=[64, 64])),
    )
    yield "fp8 of blocks of nothing", coded("fp8_uneven_blocks", lambda p, s: s.update(weight_block_size=[0, 0]))
    huge = np.array([1 << 62, 1 << 62])
    yield "packed of an absurd shape", coded("ct_4_asym", lambda p, s: p.update(weight_shape=("I64", huge)))
    yield "packed of a negative shape", coded("ct_4_asym", lambda p, s: p.update(weight_shape=("I64", -huge)))
    for text in (
        b"{",
        b"[]",
        b"{}",
        b'{"shape":[-1,2],"blocksize":64}',
        b'{"shape":[4611686018427387904,4],"blocksize":64}',
    ):
        state = ("U8", np.frombuffer(text, np.uint8))
        yield f"nf4 with the state {text.decode()}", coded("bnb_nf4_nested", lambda p, s, t=state: p.update({STATE: t}))  # type: ignore[misc]


CASES: dict[str, Make] = dict(headers()) | dict(entries()) | dict(configs()) | dict(sharded()) | dict(quantised())
