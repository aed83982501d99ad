"""Llama 3.1 to 3.3, JSON: `{"name": ..., "parameters": {...}}`, bare or after `<|python_tag|>`, several with `; `.

The built-in tools of Llama 3.1 come as `<|python_tag|>brave_search.call(query="...")`.
"""

from __future__ import annotations

from candle_vllm.pieces import Parse, Reader
from candle_vllm.tools.calls import Calls
from candle_vllm.tools.python_calls import python_calls
from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Llama3Json"]


class Llama3Json(TaggedJson):
    """Bare JSON objects."""

    names = ("llama3_json", "llama4_json", "llama")
    signs = (("<|python_tag|>",), ('"parameters": dictionary of argument name and its value',), ("<|eom_id|>",))
    tags = (("<|python_tag|>", ""),)
    marks = ("<|python_tag|>", "<|eom_id|>")
    bare = True
    arguments_key = "parameters"
    separator = "; "
    bare_begin = "{"

    def read_tagged(self, reader: Reader, calls: Calls, mark: str) -> Parse[None]:
        """After the tag: JSON, or a call in Python."""
        yield from reader.space()
        head = yield from reader.peek()
        if head and head not in "{[":
            yield from python_calls(reader, calls)
        else:
            yield from super().read_tagged(reader, calls, mark)
