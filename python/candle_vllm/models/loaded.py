"""LoadedModel: an engine with all that requests on it share. Must not know how it was loaded or who may use it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from candle_vllm import reasoning, tools
from candle_vllm.chat import ChatTemplates, ControlTexts
from candle_vllm.errors import ConfigError
from candle_vllm.models.admission import Admission
from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.models.observe import UNSEEN, Observer
from candle_vllm.models.tokens import TokenTexts
from candle_vllm.reasoning import Style
from candle_vllm.records import ModelInfo
from candle_vllm.tools import Format

if TYPE_CHECKING:
    from candle_vllm.engine import Engine

__all__ = ["LoadedModel", "Notation", "Waiting"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much may wait for a place in a loaded model; None = no bound. See `Admission`."""

    sequences: int | None = None
    """Sequences beyond those that run."""
    tokens: int | None = None
    """Prompt tokens of the requests that have not begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notation:
    """How a model writes what is more than text. Raises ConfigError for names that are not known."""

    tool_format: Format | str | None = None
    """Its calls of tools; None = as its chat template shows."""
    reasoning: Style | str | None = None
    """Its thinking; None = as its chat template shows."""
    trust_special_tokens: bool = False
    """Whether special tokens that users spell out are control tokens, as in transformers, or plain text."""

    def __post_init__(self) -> None:
        """Look names up."""
        if isinstance(self.tool_format, str):
            object.__setattr__(self, "tool_format", tools.find(self.tool_format))
        if isinstance(self.reasoning, str):
            object.__setattr__(self, "reasoning", reasoning.find(self.reasoning))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model that is there. Made with `over`."""

    engine: Engine
    info: ModelInfo
    templates: ChatTemplates
    names: tuple[str, ...]
    """Names under which it is served, the main one first."""
    defaults: SamplingDefaults
    """For what a request leaves out."""
    admission: Admission
    """Whoever submits to the engine asks here first."""
    tool_format: Format
    """How it writes calls of tools."""
    reasoning: Style
    """How it marks its thinking."""
    control: ControlTexts
    """Its special tokens, wherever users spell them out."""
    texts: TokenTexts
    """What its tokens say."""
    fingerprint: str
    """Changes when the model, or how it is computed, does."""
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix seconds."""

    @classmethod
    def over(
        cls,
        engine: Engine,
        *,
        names: Sequence[str] | None = None,
        defaults: SamplingDefaults | None = None,
        waiting: Waiting | None = None,
        observer: Observer = UNSEEN,
        notation: Notation | None = None,
    ) -> LoadedModel:
        """What requests need of this engine. `names` None = the engine's own; an empty list is refused.

        Where `defaults` are silent the checkpoint's own recommendation counts, unless the engine leaves it aside.
        """
        info = engine.model_info
        served = (info.name,) if names is None else tuple(names)
        if not served:
            raise ConfigError("names must hold at least one name, or be None for the engine's own; got none")
        waiting, notation = waiting or Waiting(), notation or Notation()
        return cls(
            engine=engine,
            info=info,
            templates=ChatTemplates(engine.chat_templates, engine.special_tokens),
            names=served,
            defaults=(defaults or SamplingDefaults()).over(SamplingDefaults(**info.generation_config)),
            admission=Admission(
                served[0],
                info.max_batch_size,
                max_waiting=waiting.sequences,
                max_waiting_tokens=waiting.tokens,
                observer=observer,
            ),
            tool_format=_tool_format(notation, engine),
            reasoning=_reasoning(notation, engine),
            control=ControlTexts(() if notation.trust_special_tokens else engine.special_texts),
            texts=TokenTexts(engine),
            fingerprint="fp_" + hashlib.sha256(repr(info).encode()).hexdigest()[:10],
        )


def _tool_format(notation: Notation, engine: Engine) -> Format:
    given = notation.tool_format
    return given if isinstance(given, Format) else tools.detect(_template(engine)) or tools.find("generic")


def _reasoning(notation: Notation, engine: Engine) -> Style:
    given = notation.reasoning
    return given if isinstance(given, Style) else reasoning.detect(_template(engine)) or reasoning.find("none")


def _template(engine: Engine) -> str:
    templates = engine.chat_templates
    return templates.get("tool_use") or templates.get("default") or ""
