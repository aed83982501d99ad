"""Granite 4: JSON objects between `<tool_call>` tags, a tag a call, as Hermes writes them."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Granite4"]


class Granite4(TaggedJson):
    """JSON objects between `<tool_call>` tags."""

    names = ("granite4",)
    signs = (("<|start_of_role|>", "<tool_call>", "</tool_call>"),)
    tags = (("<tool_call>", "</tool_call>"), ("<|tool_call|>", ""))
    marks = ("<tool_call>", "</tool_call>", "<|tool_call|>")
    layout = ("\n", "\n")
    opening = "<tool_call>"
    separator = "\n"
