"""Models as OpenAI's specification lists them. Holds no behaviour."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Model(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970."""
    owned_by: str = "candle-vllm"
    max_model_len: int | None = None
    """Longest sequence in tokens, prompt and answer (vLLM's field); null while the model was never loaded."""


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[Model]
