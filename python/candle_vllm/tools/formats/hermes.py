"""Hermes 2 and 3, Qwen 2.5 and 3, SmolLM3: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, a tag a call."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Hermes"]


class Hermes(TaggedJson):
    """JSON objects between `<tool_call>` tags."""

    names = ("hermes", "qwen", "qwen3", "smollm3")
    signs = (("<tool_call>",),)
    tags = (("<tool_call>", "</tool_call>"),)
    marks = ("<tool_call>", "</tool_call>")
    layout = ("\n", "\n")
    opening = "<tool_call>"
    separator = "\n"
