"""FunctionGemma: `<start_function_call>call:name{key:<escape>text<escape>}<end_function_call>`, a pair a call."""

from __future__ import annotations

from candle_vllm.tools.braced_format import BracedFormat

__all__ = ["FunctionGemma"]


class FunctionGemma(BracedFormat):
    """Gemma's notation with FunctionGemma's marks."""

    names = ("functiongemma",)
    signs = (("<start_function_call>",),)
    marks = ("<start_function_call>", "<end_function_call>", "<escape>")
    opening = "<start_function_call>"
    end = "<end_function_call>"
    quote = "<escape>"
