"""For models without a notation of their own: JSON between `<tool_call>` tags, as the system prompt asks for.

Small models forget tags, so a bare or fenced object counts too if it is like nothing but a call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from candle_vllm.tools.tagged import TaggedJson

__all__ = ["Generic", "system_prompt"]


class Generic(TaggedJson):
    """JSON objects between `<tool_call>` tags, or without."""

    names = ("generic", "json")
    tags = (("<tool_call>", "</tool_call>"),)
    fences = (("```json", "```"), ("```", "```"))
    marks = ("<tool_call>", "</tool_call>")
    bare = True
    guessed = True
    layout = ("\n", "\n")
    opening = "<tool_call>"
    separator = "\n"


def system_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a system message says of the tools (OpenAI's form) where the chat template has no place for them."""
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to help with the user's request. The functions that you may call, as JSON:\n"
        f"<tools>\n{listed}\n</tools>\n"
        "To call a function, answer with its name and its arguments as JSON between tags, one pair of tags a call:\n"
        '<tool_call>\n{"name": "the function\'s name", "arguments": {"parameter": "value"}}\n</tool_call>'
    )
