"""OpenAI's API over an engine in this process: the adapter, its typed requests and replies, its errors."""

from candle_vllm.models.defaults import SamplingDefaults
from candle_vllm.openai.adapter import OpenAIAdapter
from candle_vllm.openai.chat_types import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest, ChatMessage
from candle_vllm.openai.completion_types import Completion, CompletionRequest
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.model_types import ModelCard, ModelList

__all__ = [
    "ApiError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionRequest",
    "ChatMessage",
    "Completion",
    "CompletionRequest",
    "ModelCard",
    "ModelList",
    "OpenAIAdapter",
    "SamplingDefaults",
]
