"""Hunyuan A13B: a JSON list between `<tool_calls>` tags."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["HunyuanA13b"]


class HunyuanA13b(TaggedJson):
    """A JSON list between one pair of tags."""

    names = ("hunyuan_a13b",)
    signs = (("<tool_calls>", "</tool_calls>"),)
    tags = (("<tool_calls>", "</tool_calls>"),)
    marks = ("<tool_calls>", "</tool_calls>")
    opening = "<tool_calls>"
    many = True
    repeats = False
