"""Text models inside checkpoints that also see and hear: the same answers as alone, other parts left out by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from candle_vllm import ModelLoadError

from .reference import GOLDENS, archive
from .test_goldens import TOLERANCE, exact, worst

#: Around the text model, in the names that Gemma 3n and 4 are published with.
BESIDE = [
    "model.vision_tower.encoder.layers.0.mlp.weight",
    "model.audio_tower.conformer.0.weight",
    "model.embed_vision.embedding_projection.weight",
    "model.embed_audio.embedding_projection.weight",
]
#: Of a layer that reads another's keys and values: published files keep what it would have had itself.
UNUSED = ["k_proj.weight", "v_proj.weight", "k_norm.weight"]


def tensors(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and bytes of each bfloat16 tensor of a safetensors file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (of["shape"], data[start + of["data_offsets"][0] : start + of["data_offsets"][1]])
        for name, of in header.items()
    }


def write(path: Path, all_tensors: dict[str, tuple[list[int], bytes]]) -> None:
    """A safetensors file of bfloat16 tensors."""
    header, body = {}, b""
    for name, (shape, values) in all_tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(body), len(body) + len(values)]}
        body += values
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def composite(source: Path, folder: Path, family: str, extra: list[str]) -> Path:
    """The text model of `source` as `family`'s conditional generation has it, with `extra` tensors."""
    text = json.loads((source / "config.json").read_text())
    outer = {
        "architectures": [f"{family.capitalize()}ForConditionalGeneration"],
        "model_type": family,
        "text_config": text,
        "vision_config": {"model_type": f"{family}_vision"},
        "audio_config": {"model_type": f"{family}_audio"},
    }
    text.pop("architectures")
    (folder / "config.json").write_text(json.dumps(outer))
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        (folder / name).write_bytes((source / name).read_bytes())
    inside = {
        f"model.language_model.{name.removeprefix('model.')}": tensor
        for name, tensor in tensors(source / "model.safetensors").items()
    }
    one = np.zeros(2, "<u2").tobytes()
    write(folder / "model.safetensors", inside | {name: ([1, 2], one) for name in extra})
    return folder


@pytest.mark.parametrize(("case", "family"), [("gemma4_e", "gemma4"), ("gemma3n", "gemma3n")])
def test_text_models_inside_composites(
    case: str, family: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    layer = "model.language_model.layers.7.self_attn"
    extra = BESIDE + [f"{layer}.{name}" for name in UNUSED]
    path = composite(checkpoint(f"hf/{case}"), tmp_path, family, extra)
    with exact(path) as engine:
        assert worst(engine, archive(GOLDENS / "hf" / case / "reference.npz")) <= TOLERANCE


def test_an_index_that_a_layer_does_not_use_is_let_be(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("hf/glm_moe_dsa")
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]:
        (tmp_path / name).write_bytes((source / name).read_bytes())
    own = tensors(source / "model.safetensors")
    key = "model.layers.{}.self_attn.indexer.wk.weight"
    assert key.format(2) not in own
    write(tmp_path / "model.safetensors", own | {key.format(2): own[key.format(0)]})
    with exact(tmp_path) as engine:
        assert worst(engine, archive(GOLDENS / "hf" / "glm_moe_dsa" / "reference.npz")) <= TOLERANCE


def test_tensors_without_a_place_are_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    # Layer 2 keeps keys of its own: a second norm of values has no place there, nor has an unknown part.
    unknown = ["model.language_model.layers.2.self_attn.v_norm.weight", "model.language_model.hearing.weight"]
    path = composite(checkpoint("hf/gemma4_e"), tmp_path, "gemma4", BESIDE + unknown)
    with pytest.raises(ModelLoadError, match="2 tensors of the checkpoint have no place"):
        exact(path)
