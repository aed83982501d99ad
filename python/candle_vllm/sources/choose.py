"""Which of a repository's files make the model: a pure choice among names, the same for a folder and for the hub.

Safetensors win over GGUF where both are and no file is named; pickles are never taken.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from candle_vllm.errors import ModelLoadError

__all__ = ["Chosen", "choose"]

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf", re.IGNORECASE)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_BESIDE = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files to have, and the one to open where it is a file and not the folder."""

    names: tuple[str, ...]
    main: str | None


def choose(names: Sequence[str], weight_file: str | None, where: str) -> Chosen:
    """Choose among the files of one place (paths with `/`); `where` names it in errors (ModelLoadError)."""
    ggufs = [name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower()]
    if weight_file is not None:
        return _gguf(_named(ggufs, weight_file, where), names, where)
    if "model.safetensors" in names:
        weights = ["model.safetensors"]
    else:
        weights = [name for name in names if _SHARD.fullmatch(name)]
        if not weights:
            top = [name for name in names if name.endswith(".safetensors") and "/" not in name]
            weights = [name for name in top if not name.startswith("consolidated")] or top
    if weights:
        beside = [n for n in names if n in _BESIDE or re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", n)]
        return Chosen((*weights, *beside), None)
    firsts = [name for name in ggufs if (split := _SPLIT.fullmatch(name)) is None or int(split["part"]) == 1]
    if len(firsts) == 1:
        return _gguf(firsts[0], names, where)
    if firsts:
        raise ModelLoadError(
            f"{where} holds {len(firsts)} GGUF models; name one with weight_file (or a `:FILE` after a Hugging Face "
            f"id): {_listed(firsts)}"
        )
    if any(name.lower().endswith(_PICKLES) for name in names):
        raise ModelLoadError(
            f"{where} holds weights only as pickles ({_listed([n for n in names if n.lower().endswith(_PICKLES)])}), "
            "which could run code when opened and are refused; use a safetensors or GGUF version of the model"
        )
    raise ModelLoadError(f"{where} holds no weights: neither *.safetensors nor *.gguf among {_listed(names)}")


def _named(ggufs: Sequence[str], wanted: str, where: str) -> str:
    """The one GGUF file that `wanted` means: a path, a file name, or a part of the name."""
    fits = [name for name in ggufs if name == wanted]
    fits = fits or [name for name in ggufs if PurePosixPath(name).name == wanted]
    if not fits and not wanted.lower().endswith(".gguf"):
        part = re.compile(rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9_])", re.IGNORECASE)
        fits = [name for name in ggufs if part.search(name)]
        fits = [name for name in fits if (split := _SPLIT.fullmatch(name)) is None or int(split["part"]) == 1]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ModelLoadError(f"{where}: {wanted!r} fits several files; name one of them: {_listed(fits)}")
    there = _listed(ggufs) if ggufs else "none at all"
    raise ModelLoadError(f"{where} holds no GGUF file {wanted!r}; there is {there}")


def _gguf(name: str, names: Sequence[str], where: str) -> Chosen:
    split = _SPLIT.fullmatch(name)
    if split is None:
        return Chosen((name,), name)
    count = int(split["parts"])
    parts = [f"{split['stem']}-{part:05}-of-{split['parts']}{name[-5:]}" for part in range(1, count + 1)]
    missing = [part for part in parts if part not in names]
    if missing:
        raise ModelLoadError(f"{where}: parts of the split model {name} are missing: {_listed(missing)}")
    return Chosen(tuple(parts), parts[0])


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "no files"
