"""Phi-4-mini: a JSON list after `functools`, or objects between `<|tool_call|>` tags, as its templates differ."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Phi4MiniJson"]


class Phi4MiniJson(TaggedJson):
    """A JSON list behind one word."""

    names = ("phi4_mini_json",)
    signs = (("functools[",), ("<|tool_call|>", "<|/tool_call|>"), ("<|tool|>", "<|/tool|>"))
    tags = (("<|tool_call|>", "<|/tool_call|>"),)
    fences = (("functools", ""),)
    marks = ("<|tool_call|>", "<|/tool_call|>")
    opening = "functools"
    many = True
    repeats = False
