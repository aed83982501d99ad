"""Ollama's API on the one road: half of the desktop tools speak it."""

from candle_vllm.ollama.api import ENDPOINTS, QUERIES

__all__ = ["ENDPOINTS", "QUERIES"]
