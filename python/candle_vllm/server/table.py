"""All that the server answers by generating, or at once from what it knows: the tables of every API that it speaks."""

from __future__ import annotations

from candle_vllm import anthropic, ollama, openai
from candle_vllm.openai.endpoint import AnyEndpoint, AnyQuery

__all__ = ["ENDPOINTS", "QUERIES"]

ENDPOINTS: tuple[AnyEndpoint, ...] = (*openai.ENDPOINTS, *anthropic.ENDPOINTS, *ollama.ENDPOINTS)
QUERIES: tuple[AnyQuery, ...] = (*openai.QUERIES, *anthropic.QUERIES, *ollama.QUERIES)
