"""xLAM: a JSON list of calls, alone or after text, bare or within a fence or tags, as its generations differ."""

from __future__ import annotations

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Xlam"]


class Xlam(TaggedJson):
    """A JSON list with or without something around it."""

    names = ("xlam",)
    signs = (("calls in a single JSON array",), ("tool_call_name",))
    tags = (("<tool_call>", "</tool_call>"), ("[TOOL_CALLS]", ""))
    fences = (("```json", "```"), ("```", "```"), ("</think>", ""))
    marks = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]")
    bare = True
    many = True
    repeats = False
    bare_begin = "["
