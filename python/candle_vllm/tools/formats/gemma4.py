"""Gemma 4: `<|tool_call>call:name{key:<|"|>text<|"|>}<tool_call|>`, a pair of marks a call."""

from __future__ import annotations

from candle_vllm.tools.braced_format import BracedFormat

__all__ = ["Gemma4"]


class Gemma4(BracedFormat):
    """Gemma's notation with Gemma 4's marks."""

    names = ("gemma4",)
    signs = (("<|tool_call>",),)
    marks = ("<|tool_call>", "<tool_call|>", '<|"|>')
    opening = "<|tool_call>"
    end = "<tool_call|>"
    quote = '<|"|>'
