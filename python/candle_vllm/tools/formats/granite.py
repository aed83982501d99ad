"""Granite 3: a list of JSON objects after `<|tool_call|>` (3.0) or `<tool_call>` (3.1 on), to the reply's end."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Granite"]


class Granite(TaggedJson):
    """A JSON list behind one mark."""

    names = ("granite",)
    signs = (("<|start_of_role|>", "<|tool_call|>"),)
    tags = (("<|tool_call|>", ""), ("<tool_call>", "</tool_call>"))
    marks = ("<|tool_call|>", "<tool_call>", "</tool_call>")
    opening = "<|tool_call|>"
    many = True
    repeats = False
