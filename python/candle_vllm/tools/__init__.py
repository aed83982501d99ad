"""Tool calls in models' replies: read from what each family of models really writes, and enforced by grammars.

    reply = candle_vllm.tools.parse(text, "hermes")       # a whole reply
    splitter = candle_vllm.tools.Splitter("qwen3_coder", tools)
    events = splitter.feed(piece) ...; splitter.end()     # the same, as it arrives

Formats bear the names of vLLM's parsers (`FORMATS` lists them; `detect` finds the one of a chat template). `tools`, in
OpenAI's form, type the values of formats that write plain text and name those of Python calls that have no names.
Arguments are JSON text, as the model wrote it where that is JSON; what is no call is text, white space and all. A reply
that ends inside a call is `truncated` and finishes with `length`. A format also tells `marks`, which whoever decodes
tokens must leave in the text, `grammar(tools, choice)`, which holds a model to its calls, and `write(calls)`.

This package stands alone: it needs no engine and no server, so a gateway may use it. Must not know of HTTP, of requests
or of templates' rendering.
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
