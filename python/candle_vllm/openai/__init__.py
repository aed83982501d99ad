"""OpenAI's API in this process: the adapter, the table of endpoints, typed requests and replies, errors."""

from candle_vllm.models import SamplingDefaults
from candle_vllm.openai.accumulate import accumulate
from candle_vllm.openai.adapter import OpenAIAdapter, UnknownFields
from candle_vllm.openai.chat_types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    ChatCompletionRequest,
    ChatMessage,
    Choice,
    ChoiceDelta,
    CompletionUsage,
)
from candle_vllm.openai.completion_types import Completion, CompletionRequest
from candle_vllm.openai.endpoint import Endpoint, Query, Writer
from candle_vllm.openai.endpoints import ENDPOINTS, QUERIES
from candle_vllm.openai.errors import ApiError
from candle_vllm.openai.models import Model, ModelList
from candle_vllm.openai.responses import Response, Responses, ResponsesRequest, ResponseStore

__all__ = [
    "ENDPOINTS",
    "QUERIES",
    "ApiError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionRequest",
    "ChatMessage",
    "Choice",
    "ChoiceDelta",
    "Completion",
    "CompletionRequest",
    "CompletionUsage",
    "Endpoint",
    "Model",
    "ModelList",
    "OpenAIAdapter",
    "Query",
    "Response",
    "ResponseStore",
    "Responses",
    "ResponsesRequest",
    "SamplingDefaults",
    "UnknownFields",
    "Writer",
    "accumulate",
]
