"""Tools in the prompt of a model whose chat template knows none: shown, called and answered as text.

Must not know how replies are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from candle_vllm.tools import Format, ToolCall, system_prompt

__all__ = ["as_text"]

Message = Mapping[str, Any]


def as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], form: Format) -> list[Message]:
    """The conversation with its tools in the system message, calls as the model writes them, results as a user's."""
    shown = [_without_calls(message, form) for message in messages]
    if not tools:
        return shown
    about = system_prompt(tools)
    if shown and shown[0].get("role") in ("system", "developer"):
        return [{**shown[0], "content": f"{_text(shown[0].get('content'))}\n\n{about}"}, *shown[1:]]
    return [{"role": "system", "content": about}, *shown]


def _without_calls(message: Message, form: Format) -> Message:
    calls = message.get("tool_calls")
    if calls:
        written = form.write(
            [ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
        )
        text = _text(message.get("content"))
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**kept, "content": f"{text}\n{written}" if text else written}
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"}
    return message


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.get("text", "") if isinstance(part, Mapping) else json.dumps(part) for part in content)
