"""LFM2: `[f(a=1)]` between `<|tool_call_start|>` and `<|tool_call_end|>`, or JSON there if it was asked for."""

from __future__ import annotations

from candle_vllm.tools.python_list import PythonList

__all__ = ["Lfm2"]


class Lfm2(PythonList):
    """A list of Python calls between marks."""

    names = ("lfm2",)
    signs = (("<|tool_call_start|>",), ("<|tool_list_start|>",))
    tags = (("<|tool_call_start|>", "<|tool_call_end|>"),)
    marks = ("<|tool_call_start|>", "<|tool_call_end|>")
    opening = "<|tool_call_start|>"
