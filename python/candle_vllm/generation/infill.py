"""Text that is to stand between two others: how models are asked for it, found by the special tokens that they have.

Must not know of requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from candle_vllm.models import LoadedModel

__all__ = ["Asking", "infill_of"]

# A character that no text merges with, by whose help a text's tokens are had as they are within a text.
_BEFORE = "☺"


@dataclass(frozen=True, slots=True)
class Infill:
    """One way of asking: marks before what comes first, before what comes last, and where the model is to write."""

    prefix: str
    suffix: str
    middle: str = ""
    """"" where the model writes on behind the prefix, which then comes last."""
    ends: tuple[str, ...] = ()
    """Special tokens that end what is written, where the model has them, beside its own ends."""

    @property
    def marks(self) -> tuple[str, ...]:
        """The special tokens that a model needs for it."""
        return tuple(filter(None, (self.prefix, self.suffix, self.middle)))


# By the models that brought them; others use the same.
_STYLES = (
    # Qwen2.5-Coder, CodeGemma
    Infill(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    # StarCoder, Granite; SantaCoder
    Infill("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>", "<filename>")),
    Infill("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ("<fim-pad>",)),
    # CodeLlama
    Infill("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),
    # DeepSeek-Coder
    Infill("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Codestral
    Infill("[PREFIX]", "[SUFFIX]"),
)


def infill_of(model: LoadedModel) -> Asking | None:
    """How this model is asked; None where its tokenizer has the special tokens of no way."""
    for style in _STYLES:
        found = model.texts.special_marks(style.marks)
        if len(found) == len(style.marks):
            return Asking(model, style, found)
    return None


class Asking:
    """One way, with a model's own tokens."""

    def __init__(self, model: LoadedModel, style: Infill, marks: dict[str, int]) -> None:
        self._model = model
        self._style = style
        self._marks = marks

    @property
    def ends(self) -> list[int]:
        """Token ids that end what is written."""
        return list(self._model.texts.special_marks(self._style.ends).values())

    def prompt(self, prefix: str | list[int], suffix: str, add_special_tokens: bool) -> list[int]:
        """The token ids that ask for what stands between; with the tokenizer's own first token where asked for."""
        engine, style = self._model.engine, self._style
        first = engine.tokenize("", True) if add_special_tokens else []
        before = self._within(prefix) if isinstance(prefix, str) else prefix
        before = [self._marks[style.prefix], *before]
        after = [self._marks[style.suffix], *self._within(suffix)]
        if not style.middle:
            return [*first, *after, *before]
        return [*first, *before, *after, self._marks[style.middle]]

    def _within(self, text: str) -> list[int]:
        """Token ids of a text that another one precedes: some tokenizers put a blank before a text that begins."""
        engine = self._model.engine
        ids = engine.tokenize(text)
        if not ids or text.startswith(" ") or not self._model.texts.raw(ids[0]).startswith(b" "):
            return ids
        head, whole = engine.tokenize(_BEFORE), engine.tokenize(_BEFORE + text)
        return whole[len(head) :] if whole[: len(head)] == head else ids
