"""What a conversation needs of a model: the events of one answer. The adapter gives them; so may a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from candle_vllm.generation import Event
from candle_vllm.openai import OpenAIAdapter
from candle_vllm.openai.chat import CHAT_COMPLETION
from candle_vllm.openai.errors import api_error

__all__ = ["AdapterModel", "Model", "is_overflow"]


class Model(Protocol):
    """Answers chat requests."""

    def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of one answer to a request of OpenAI's form. Closing them frees the work."""
        ...


class AdapterModel:
    """The models behind an adapter; each answer takes the road of every chat."""

    def __init__(self, adapter: OpenAIAdapter) -> None:
        self._adapter = adapter

    async def answer(self, request: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of one answer; whatever goes wrong raises ApiError."""
        try:
            opened = self._adapter.open(CHAT_COMPLETION, request, stream=True)
            async with aclosing(opened.events) as events:
                async for event in events:
                    yield event
        except Exception as error:
            raise api_error(error) from error


def is_overflow(error: Exception) -> bool:
    """Whether a request was refused because its prompt outgrew the model's context."""
    return getattr(error, "code", None) == "context_length_exceeded"
