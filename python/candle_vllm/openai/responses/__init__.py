"""OpenAI's Responses API on the one road: a request of items becomes a response of items, stored to be gone on from."""

from candle_vllm.openai.responses.objects import Deleted, ItemList, Response
from candle_vllm.openai.responses.row import INPUT_TOKENS, RESPONSE
from candle_vllm.openai.responses.service import Responses
from candle_vllm.openai.responses.store import Record, ResponseStore
from candle_vllm.openai.responses.types import PromptRequest, ResponsesRequest

__all__ = [
    "INPUT_TOKENS",
    "RESPONSE",
    "Deleted",
    "ItemList",
    "PromptRequest",
    "Record",
    "Response",
    "ResponseStore",
    "Responses",
    "ResponsesRequest",
]
