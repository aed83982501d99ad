"""The road that every request takes, whichever endpoint or door it came by: request in, typed events out.

Must not know of request forms, replies or HTTP.
"""

from candle_vllm.generation.account import Account, Observer
from candle_vllm.generation.errors import RequestError
from candle_vllm.generation.events import (
    Continued,
    Event,
    Finished,
    FinishText,
    PromptLogprobs,
    Reasoning,
    ServerCallArguments,
    ServerCallEnded,
    ServerCallStarted,
    Started,
    Status,
    Text,
    Tokens,
    ToolArguments,
    ToolCallStarted,
)
from candle_vllm.generation.fold import Answer, Call, Reply, ServerCall, fold
from candle_vllm.generation.request import (
    Constraint,
    Conversation,
    GenerationRequest,
    Prompts,
    ServerTools,
    ToolUse,
)
from candle_vllm.generation.run import Road

__all__ = [
    "Account",
    "Answer",
    "Call",
    "Constraint",
    "Continued",
    "Conversation",
    "Event",
    "FinishText",
    "Finished",
    "GenerationRequest",
    "Observer",
    "PromptLogprobs",
    "Prompts",
    "Reasoning",
    "Reply",
    "RequestError",
    "Road",
    "ServerCall",
    "ServerCallArguments",
    "ServerCallEnded",
    "ServerCallStarted",
    "ServerTools",
    "Started",
    "Status",
    "Text",
    "Tokens",
    "ToolArguments",
    "ToolCallStarted",
    "ToolUse",
    "fold",
]
