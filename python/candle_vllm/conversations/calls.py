"""Calls: the calls of a conversation, from what a model wrote to what it is told. Nothing that a call does raises.

A call that is malformed, unknown, not allowed, refused or made again and again never runs. Knows no model.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from candle_vllm.conversations.events import ExecutedCall
from candle_vllm.conversations.options import ConversationOptions, PendingCall
from candle_vllm.conversations.tools import Tool
from candle_vllm.generation import Call
from candle_vllm.mcp.results import ToolResult

__all__ = ["Calls"]

_NAMES_TOLD = 20


class Calls:
    """Runs calls within a conversation's options, and knows those that were made before."""

    def __init__(self, options: ConversationOptions) -> None:
        self._options = options
        self._places = asyncio.Semaphore(options.max_parallel)
        self._again = _repetition(options.max_repeats)
        self._spent = _spent(options.max_calls)
        self._left = options.max_calls
        self._made: dict[tuple[str, str], tuple[str, int]] = {}
        self.idle_turns = 0
        """Turns all of whose calls were refused as repetitions, or as too many."""

    def begin(self, turn: int, calls: Sequence[Call], tools: Mapping[str, Tool]) -> list[asyncio.Task[ExecutedCall]]:
        """Run the calls of a turn side by side; their results, in order."""
        refused = [self._not_made(call) for call in calls]
        self.idle_turns += None not in refused
        return [
            asyncio.create_task(self._run(turn, call, tools, refusal))
            for call, refusal in zip(calls, refused, strict=True)
        ]

    def note(self, made: ExecutedCall) -> None:
        """Remember a call that has ended, unless it was not made."""
        if made.result is self._again or made.result is self._spent:
            return
        key = made.name, _canonical(made.arguments)
        text, times = self._made.get(key, ("", 0))
        self._made[key] = made.result.text, times + 1 if text == made.result.text else 1

    def _not_made(self, call: Call) -> ToolResult | None:
        """Why a call is not made at all; None where it is, and then it counts."""
        if self._made.get((call.name, _canonical(call.arguments)), ("", 0))[1] >= self._options.max_repeats:
            return self._again
        if self._left is None:
            return None
        self._left -= 1
        return self._spent if self._left < 0 else None

    async def _run(self, turn: int, call: Call, tools: Mapping[str, Tool], refusal: ToolResult | None) -> ExecutedCall:
        tool = tools.get(call.name)
        began = time.monotonic()
        async with self._places:
            try:
                result = refusal or await self._result(call, tool, tools)
            except Exception as error:
                result = ToolResult.failed("tool_error", f"{type(error).__name__}: {error}")
        server = None if tool is None else tool.server
        return ExecutedCall(turn, call.id, call.name, server, call.arguments, result, time.monotonic() - began)

    async def _result(self, call: Call, tool: Tool | None, tools: Mapping[str, Tool]) -> ToolResult:
        if tool is None:
            return _unknown(call.name, [name for name, each in tools.items() if self.allows(each)])
        if not self.allows(tool):
            return ToolResult.failed("refused", f"the tool {call.name!r} is not allowed here")
        arguments = _parsed(call.arguments)
        if isinstance(arguments, ToolResult):
            return arguments
        arguments, wrong = tool.fit(arguments)
        if wrong is not None:
            return ToolResult.failed("invalid_arguments", f"wrong arguments for {call.name!r}: {wrong}")
        refusal = await self._refusal(PendingCall(tool.name, tool.server, arguments))
        return refusal or await tool.call(arguments, self._options.tool_timeout)

    def allows(self, tool: Tool) -> bool:
        """Whether the model may call a tool."""
        allowed = self._options.allowed_tools
        return allowed is None or tool.name in allowed or tool.own_name in allowed

    async def _refusal(self, pending: PendingCall) -> ToolResult | None:
        if self._options.approve is None:
            return None
        verdict = self._options.approve(pending)
        if inspect.isawaitable(verdict):
            verdict = await verdict
        if verdict is True:
            return None
        why = verdict if isinstance(verdict, str) and verdict else "the user did not approve this call"
        return ToolResult.failed("refused", why)


def _parsed(text: str) -> dict[str, Any] | ToolResult:
    try:
        arguments = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        return ToolResult.failed("invalid_arguments", f"the arguments are no valid JSON: {error}")
    if not isinstance(arguments, dict):
        return ToolResult.failed("invalid_arguments", "the arguments must be a JSON object")
    return arguments


def _canonical(arguments: str) -> str:
    """The arguments in one spelling, so that the order of keys makes no difference."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except (json.JSONDecodeError, RecursionError):
        return arguments


def _unknown(name: str, there: Sequence[str]) -> ToolResult:
    near = difflib.get_close_matches(name, there, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(there[:_NAMES_TOLD]) + (" ..." if len(there) > _NAMES_TOLD else "")
    return ToolResult.failed("unknown_tool", f"there is no tool {name[:200]!r}.{hint} Tools: {listed or 'none'}.")


def _spent(most: int | None) -> ToolResult:
    return ToolResult.failed("refused", f"all {most} calls that may be made were made. Answer with what you know.")


def _repetition(times: int) -> ToolResult:
    return ToolResult.failed(
        "refused",
        f"this call was made {times} times with the same result and is not made again. "
        "Answer with what you know, or do something else.",
    )
