"""Tool calls in models' replies: read from what each family of models really writes, and enforced by grammars.

    reply = candle_vllm.tools.parse(text, "hermes")       # a whole reply
    splitter = candle_vllm.tools.Splitter("qwen3_coder", tools)
    events = splitter.feed(piece) ...; splitter.end()     # the same, as it arrives

Formats bear the names of vLLM's parsers (`FORMATS` lists them). This package stands alone: it needs no engine and no
server, so a gateway may use it. Must not know of HTTP, of requests or of templates' rendering.
"""

from .events import CallArguments, CallEnded, CallStarted, Event, Text, ToolCall
from .format import Format
from .formats.generic import system_prompt
from .grammar import json_answer
from .schemas import Tool, Tools
from .splitter import ParsedReply, Splitter, parse
from .table import FORMATS, detect, find

__all__ = [
    "FORMATS",
    "CallArguments",
    "CallEnded",
    "CallStarted",
    "Event",
    "Format",
    "ParsedReply",
    "Splitter",
    "Text",
    "Tool",
    "ToolCall",
    "Tools",
    "detect",
    "find",
    "json_answer",
    "parse",
    "system_prompt",
]
