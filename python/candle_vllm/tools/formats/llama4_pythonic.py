"""Llama 4, pythonic: `[f(a=1)]`, bare or between `<|python_start|>` and `<|python_end|>`."""

from __future__ import annotations

from candle_vllm.tools.python_list import PythonList

__all__ = ["Llama4Pythonic"]


class Llama4Pythonic(PythonList):
    """A list of Python calls with or without marks."""

    names = ("llama4_pythonic",)
    signs = (("<|python_start|>",), ("<|header_start|>", "[func_name1("))
    tags = (("<|python_start|>", "<|python_end|>"),)
    marks = ("<|python_start|>", "<|python_end|>")
    bare = True
    bare_begin = "["
