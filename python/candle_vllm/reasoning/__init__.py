"""Thinking in models' replies, told apart from the answer.

    reply = candle_vllm.reasoning.split(text, "qwen3")
    splitter = candle_vllm.reasoning.Splitter(style, style.begun_by(prompt))
    events = splitter.feed(piece) ...; splitter.end()

Runs before tool calls are read: what it tells as text is what a tool-call splitter gets, so that a call which a model
only thinks of is none. Must not know of HTTP, of requests or of templates' rendering.
"""

from .events import Event, Reasoning, Text
from .splitter import SplitReply, Splitter, split
from .style import Style
from .table import STYLES, detect, find

__all__ = ["STYLES", "Event", "Reasoning", "SplitReply", "Splitter", "Style", "Text", "detect", "find", "split"]
