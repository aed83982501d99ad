"""Writes small checkpoints in the formats that quantised weights are published in.

Each draws random parts and says, by numpy and from the format's own definition, which float32 matrix they stand for.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .reference import GOLDENS

Part = tuple[str, np.ndarray]
Made = tuple[dict[str, Part], np.ndarray]
Maker = Callable[[np.random.RandomState, int, int], Made]

GROUP = 64


def save(path: Path, tensors: dict[str, Part]) -> None:
    """A safetensors file; bytes of types that numpy lacks come as uint8 or uint16."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def words(codes: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Packs neighbours along an axis, the first one lowest, into int32."""
    per = 32 // bits
    codes = np.moveaxis(codes, axis, -1)
    codes = codes.reshape(*codes.shape[:-1], -1, per).astype(np.uint64)
    packed: np.ndarray = (codes << (np.arange(per, dtype=np.uint64) * np.uint64(bits))).sum(-1).astype(np.uint32)
    whole: np.ndarray = np.moveaxis(packed, -1, axis).view(np.int32)
    return whole


def scales_of(random: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    return random.uniform(0.002, 0.01, shape).astype(np.float16)


def gptq(bits: int, *, symmetric: bool, ordered: bool, lack: int) -> Maker:
    """`w[r, c] = scale[g(c), r] * (q[c, r] - zero[g(c), r])`; the first format stores `zero - 1`."""

    def make(random: np.random.RandomState, n: int, k: int) -> Made:
        q = random.randint(0, 1 << bits, (k, n))
        scales = scales_of(random, (k // GROUP, n))
        middle = 1 << (bits - 1)
        zeros = np.full(scales.shape, middle) if symmetric else random.randint(1, 1 << bits, scales.shape)
        groups = np.arange(k) // GROUP
        if ordered:
            groups = random.permutation(groups)
        dense = (scales[groups].astype(np.float32) * (q - zeros[groups]).astype(np.float32)).T
        parts = {
            "qweight": ("I32", words(q, bits, 0)),
            "qzeros": ("I32", words(zeros - lack, bits, 1)),
            "scales": ("F16", scales),
            "g_idx": ("I32", groups.astype(np.int32)),
        }
        return parts, dense

    return make


def awq(random: np.random.RandomState, n: int, k: int) -> Made:
    """Nibble i of a word is output `[0, 2, 4, 6, 1, 3, 5, 7][i]` of its 8; zeros alike."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    q = random.randint(0, 16, (k, n))
    scales = scales_of(random, (k // GROUP, n))
    zeros = random.randint(0, 16, scales.shape)

    def packed(codes: np.ndarray) -> np.ndarray:
        return words(codes.reshape(len(codes), -1, 8)[:, :, order].reshape(codes.shape), 4, 1)

    groups = np.arange(k) // GROUP
    dense = (scales[groups].astype(np.float32) * (q - zeros[groups]).astype(np.float32)).T
    return {"qweight": ("I32", packed(q)), "qzeros": ("I32", packed(zeros)), "scales": ("F16", scales)}, dense


def packed_integers(bits: int, *, zeros: bool, ordered: bool = False) -> Maker:
    """compressed-tensors: signed integers raised by half their range, along a row."""

    def make(random: np.random.RandomState, n: int, k: int) -> Made:
        half = 1 << (bits - 1)
        q = random.randint(-half, half, (n, k))
        scales = scales_of(random, (n, k // GROUP))
        points = random.randint(-half, half, scales.shape) if zeros else np.zeros(scales.shape, int)
        groups = np.arange(k) // GROUP
        if ordered:
            groups = random.permutation(groups)
        dense = scales[:, groups].astype(np.float32) * (q - points[:, groups]).astype(np.float32)
        parts: dict[str, Part] = {
            "weight_packed": ("I32", words(q + half, bits, 1)),
            "weight_scale": ("F16", scales),
            "weight_shape": ("I64", np.array([n, k])),
        }
        if zeros:
            parts["weight_zero_point"] = ("I32", words(points + half, bits, 0))
        if ordered:
            parts["weight_g_idx"] = ("I32", groups.astype(np.int32))
        return parts, dense

    return make


def int8(random: np.random.RandomState, n: int, k: int) -> Made:
    """compressed-tensors: one scale and zero point for each row."""
    q = random.randint(-128, 128, (n, k)).astype(np.int8)
    scales = random.uniform(0.0005, 0.001, (n, 1)).astype(np.float16)
    points = random.randint(-5, 6, (n, 1)).astype(np.int8)
    dense = scales.astype(np.float32) * (q.astype(np.float32) - points)
    return {"weight": ("I8", q), "weight_scale": ("F16", scales), "weight_zero_point": ("I8", points)}, dense


def float8(codes: np.ndarray, exponent: int) -> np.ndarray:
    """OCP 8-bit floating point of so many bits of exponent, finite codes only."""
    fraction = 7 - exponent
    bias = (1 << (exponent - 1)) - 1
    e = (codes.astype(np.int32) & 127) >> fraction
    f = (codes & ((1 << fraction) - 1)).astype(np.float64) / (1 << fraction)
    size = np.where(e == 0, f * 2.0 ** (1 - bias), (1 + f) * 2.0 ** (e - bias))
    return np.where(codes & 128, -size, size).astype(np.float32)


def fp8(dtype: str, exponent: int, scale: str, tile: Callable[[int, int], tuple[int, int]]) -> Maker:
    """One float32 factor for each tile of rows and columns."""

    def make(random: np.random.RandomState, n: int, k: int) -> Made:
        most = 0x77 if exponent == 4 else 0x47
        codes = (random.randint(0x20, most, (n, k)) | random.randint(0, 2, (n, k)) << 7).astype(np.uint8)
        rows, columns = tile(n, k)
        shape = -(-n // rows), -(-k // columns)
        largest = float8(np.array([most]), exponent)[0]
        scales = random.uniform(0.05 / largest, 0.1 / largest, shape).astype(np.float32)
        whole = scales.repeat(rows, 0)[:n].repeat(columns, 1)[:, :k]
        kept = scales.reshape(()) if shape == (1, 1) else scales
        return {"weight": (dtype, codes), scale: ("F32", kept)}, whole * float8(codes, exponent)

    return make


def nf4(*, nested: bool) -> Maker:
    """bitsandbytes: a table of 16, two codes a byte with the first one high, a factor for 64 numbers."""

    def make(random: np.random.RandomState, n: int, k: int) -> Made:
        table = np.sort(random.uniform(-1, 1, 16)).astype(np.float32)
        q = random.randint(0, 16, n * k)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k]}
        parts: dict[str, Part] = {
            "weight": ("U8", (q[::2] << 4 | q[1::2]).astype(np.uint8)[:, None]),
            "weight.quant_map": ("F32", table),
        }
        if nested:
            codes = random.randint(0, 256, n * k // 64).astype(np.uint8)
            map_ = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
            outer = random.uniform(0.005, 0.02, -(-len(codes) // 256)).astype(np.float32)
            offset = 0.05
            factors = map_[codes] * outer.repeat(256)[: len(codes)] + np.float32(offset)
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
            parts |= {
                "weight.absmax": ("U8", codes),
                "weight.nested_absmax": ("F32", outer),
                "weight.nested_quant_map": ("F32", map_),
            }
        else:
            factors = random.uniform(0.02, 0.1, n * k // 64).astype(np.float32)
            parts["weight.absmax"] = ("F32", factors)
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        parts["weight.quant_state.bitsandbytes__nf4"] = ("U8", text)
        return parts, (table[q] * factors.repeat(64)).reshape(n, k)

    return make


def compressed(**weights: object) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def gptq_config(bits: int, version: str = "gptq") -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": version}


FP8 = {"quant_method": "fp8", "fmt": "e4m3"}
CASES: dict[str, tuple[dict[str, Any], Maker]] = {
    "gptq_4": (gptq_config(4), gptq(4, symmetric=True, ordered=False, lack=1)),
    "gptq_4_asym": (gptq_config(4), gptq(4, symmetric=False, ordered=False, lack=1)),
    "gptq_4_asym_desc_act": (gptq_config(4), gptq(4, symmetric=False, ordered=True, lack=1)),
    "gptq_v2_4_asym": (gptq_config(4, "gptq_v2"), gptq(4, symmetric=False, ordered=False, lack=0)),
    "gptq_8": (gptq_config(8), gptq(8, symmetric=True, ordered=False, lack=1)),
    "gptq_8_asym_desc_act": (gptq_config(8), gptq(8, symmetric=False, ordered=True, lack=1)),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, awq),
    "ct_4_asym": (compressed(num_bits=4, type="int"), packed_integers(4, zeros=True)),
    "ct_4_actorder": (compressed(num_bits=4, actorder="group"), packed_integers(4, zeros=False, ordered=True)),
    "ct_8_packed": (compressed(num_bits=8, type="int"), packed_integers(8, zeros=False)),
    "ct_int8_asym": (compressed(num_bits=8, type="int"), int8),
    "ct_fp8_tensor": (
        compressed(num_bits=8, type="float"),
        fp8("F8_E4M3", 4, "weight_scale", lambda n, k: (n, k)),
    ),
    "fp8_tensor": (FP8, fp8("F8_E4M3", 4, "weight_scale", lambda n, k: (n, k))),
    "fp8_rows_e5m2": (FP8 | {"fmt": "e5m2"}, fp8("F8_E5M2", 5, "weight_scale", lambda n, k: (1, k))),
    "fp8_uneven_blocks": (
        FP8 | {"weight_block_size": [96, 96]},
        fp8("F8_E4M3", 4, "weight_scale_inv", lambda n, k: (96, 96)),
    ),
    "bnb_nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4(nested=False)),
    "bnb_nf4_nested": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4(nested=True)),
}


def write(case: str, folder: Path) -> tuple[Path, Path]:
    """A small Qwen3 with its linear layers in a format, and one with the same weights in float32."""
    settings, maker = CASES[case]
    source = GOLDENS / "formats" / "gptq_int4"
    config = json.loads((source / "config.json").read_text())
    random = np.random.RandomState(len(case))
    hidden, wide, head, heads, kv = 256, 512, 64, 4, 2
    shapes = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (kv * head, hidden),
        "self_attn.v_proj": (kv * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    plain: dict[str, Part] = {"model.norm.weight": ("F32", np.ones(hidden, np.float32))}
    for name in ["lm_head.weight", "model.embed_tokens.weight"]:
        plain[name] = ("F32", (random.standard_normal((config["vocab_size"], hidden)) * 0.2).astype(np.float32))
    coded: dict[str, Part] = {}
    dense: dict[str, Part] = {}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for norm, width in [
            ("input_layernorm", hidden),
            ("post_attention_layernorm", hidden),
            ("self_attn.q_norm", head),
            ("self_attn.k_norm", head),
        ]:
            plain[f"{prefix}.{norm}.weight"] = ("F32", np.ones(width, np.float32))
        for name, (n, k) in shapes.items():
            parts, values = maker(random, n, k)
            coded |= {f"{prefix}.{name}.{part}": made for part, made in parts.items()}
            dense[f"{prefix}.{name}.weight"] = ("F32", values.astype(np.float32))
    folders = folder / "coded", folder / "dense"
    for own, tensors in zip(folders, [coded, dense], strict=True):
        own.mkdir()
        for file in ["tokenizer.json", "tokenizer_config.json"]:
            (own / file).write_bytes((source / file).read_bytes())
        config.pop("quantization_config", None)
        if tensors is coded:
            config["quantization_config"] = settings
        (own / "config.json").write_text(json.dumps(config))
        save(own / "model.safetensors", plain | tensors)
    return folders


def mxfp4(codes: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """OCP E2M1 numbers, the low nibble first, times a power of two for each 32."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    table = np.concatenate([table, -table])
    both = np.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:-1], 32)
    scaled: np.ndarray = table[both] * 2.0 ** (exponents[..., None].astype(np.float32) - 127)
    return scaled.reshape(*codes.shape[:-2], -1).astype(np.float32)


def write_gpt_oss(sound: Path, folder: Path) -> tuple[Path, Path]:
    """gpt-oss with its experts in MXFP4 as published (outputs first, gate and up in turn), and the same in float32."""
    random = np.random.RandomState(5)
    config = json.loads((sound / "config.json").read_text())
    experts, hidden, wide = config["num_local_experts"], config["hidden_size"], config["intermediate_size"]
    raw = (sound / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    plain: dict[str, Part] = {}
    for name, info in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and not name.endswith(("gate_up_proj", "down_proj")):
            start, end = (8 + size + at for at in info["data_offsets"])
            plain[name] = info["dtype"], np.frombuffer(raw[start:end], np.uint16).reshape(info["shape"])
    coded, dense = dict(plain), dict(plain)
    for layer in range(config["num_hidden_layers"]):
        for part, rows, columns in [("gate_up_proj", 2 * wide, hidden), ("down_proj", hidden, wide)]:
            name = f"model.layers.{layer}.mlp.experts.{part}"
            codes = random.randint(0, 256, (experts, rows, columns // 32, 16)).astype(np.uint8)
            exponents = random.randint(121, 124, codes.shape[:-1]).astype(np.uint8)
            coded |= {f"{name}_blocks": ("U8", codes), f"{name}_scales": ("U8", exponents)}
            dense[name] = ("F32", np.ascontiguousarray(mxfp4(codes, exponents).swapaxes(1, 2)))
    folders = folder / "coded", folder / "dense"
    for own, tensors in zip(folders, [coded, dense], strict=True):
        own.mkdir()
        for file in ["tokenizer.json", "tokenizer_config.json"]:
            (own / file).write_bytes((sound / file).read_bytes())
        extra = {"quantization_config": {"quant_method": "mxfp4"}} if tensors is coded else {}
        (own / "config.json").write_text(json.dumps(config | extra))
        save(own / "model.safetensors", tensors)
    return folders
