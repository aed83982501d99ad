"""Anthropic's Messages API on the one road."""

from candle_vllm.anthropic.messages import ENDPOINTS, QUERIES

__all__ = ["ENDPOINTS", "QUERIES"]
