"""Conversations: a model that works with tools over many turns.

Must not know of HTTP: the server's endpoints read the same events as anybody else.
"""

from candle_vllm.conversations.events import (
    ConversationEvent,
    ConversationFinished,
    ConversationResult,
    EndReason,
    ExecutedCall,
    ToolCalled,
    ToolReturned,
    TurnEnded,
    TurnReasoning,
    TurnStarted,
    TurnText,
    TurnUsage,
)
from candle_vllm.conversations.loop import converse
from candle_vllm.conversations.model import AdapterModel, Model
from candle_vllm.conversations.options import ConversationOptions, PendingCall
from candle_vllm.conversations.road import ToolRoad
from candle_vllm.conversations.session import ResponsesSession, SessionBuilder
from candle_vllm.conversations.tools import Tool, Toolbox

__all__ = [
    "AdapterModel",
    "ConversationEvent",
    "ConversationFinished",
    "ConversationOptions",
    "ConversationResult",
    "EndReason",
    "ExecutedCall",
    "Model",
    "PendingCall",
    "ResponsesSession",
    "SessionBuilder",
    "Tool",
    "ToolCalled",
    "ToolReturned",
    "ToolRoad",
    "Toolbox",
    "TurnEnded",
    "TurnReasoning",
    "TurnStarted",
    "TurnText",
    "TurnUsage",
    "converse",
]
