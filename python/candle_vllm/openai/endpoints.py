"""The table of endpoints. One more is one file and one row here."""

from __future__ import annotations

from candle_vllm.openai.chat import CHAT_COMPLETION
from candle_vllm.openai.completions import COMPLETION
from candle_vllm.openai.endpoint import AnyEndpoint, AnyQuery
from candle_vllm.openai.tokenize import DETOKENIZE, RENDER, TOKENIZE

__all__ = ["ENDPOINTS", "QUERIES"]

ENDPOINTS: tuple[AnyEndpoint, ...] = (CHAT_COMPLETION, COMPLETION)

QUERIES: tuple[AnyQuery, ...] = (TOKENIZE, DETOKENIZE, RENDER)
