"""Llama 3.2, ToolACE and others, pythonic: `[f(a=1), g(b="x")]` at the beginning of the reply or of a line."""

from __future__ import annotations

from candle_vllm.tools.python_list import PythonList

__all__ = ["Pythonic"]


class Pythonic(PythonList):
    """A bare list of Python calls."""

    names = ("pythonic",)
    signs = (("[func_name1(",),)
    bare = True
    bare_begin = "["
