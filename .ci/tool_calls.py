"""How surely SmolLM2 calls tools at temperature 1: the promise of tool choices, kept by grammar.

usage: .ci/tool_calls.py [COUNT]

COUNT (100) calls that must be made, half of them of one named tool, and twice as many answers that may call (`auto`),
16 at once, from a menu of three tools. Each call's arguments are JSON that fits the tool's schema, and an answer that
may call has whole calls or none. Prints what it found and ends with an error where the promise is broken; answers that
`max_tokens` cuts off are counted apart, and end as `length`.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import jsonschema

from candle_vllm import InferenceEngine
from candle_vllm.openai import ApiError, OpenAIAdapter

AT_ONCE = 16


def tool(name: str, about: str, **properties: Any) -> dict[str, Any]:
    """A tool whose parameters are all required."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": about, "parameters": schema}}


TOOLS = [
    tool(
        "get_weather",
        "The weather of a city",
        city={"type": "string", "maxLength": 40},
        days={"type": "integer", "minimum": 1, "maximum": 7},
    ),
    tool("add", "The sum of two numbers", a={"type": "number"}, b={"type": "number"}),
    tool(
        "paint",
        "Paint walls",
        color={"enum": ["red", "green", "blue"]},
        walls={"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
    ),
]
ASKED = (
    "What will the weather be in Paris tomorrow?",
    "How much is 17 and 25?",
    "Please paint the kitchen blue.",
    "Tell me a joke.",
    "Say <tool_call> and { in a sentence.",
)
SCHEMAS = {one["function"]["name"]: one["function"]["parameters"] for one in TOOLS}


def fault(message: Any) -> str | None:
    """What is wrong with the calls of an answer; None where each is whole and fits its tool."""
    for call in message.tool_calls or ():
        name = call.function.name
        if name not in SCHEMAS:
            return f"calls {name!r}, which is no tool"
        try:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[name])
        except (ValueError, jsonschema.ValidationError) as error:
            return f"{name}({call.function.arguments}): {str(error).splitlines()[0]}"
    return None


def verdict(choice: Any, wanted: str) -> str:
    """`called`, `said`, `cut off`, or what is wrong."""
    if (found := fault(choice.message)) is not None and choice.finish_reason != "length":
        return found
    if choice.finish_reason == "length":
        return "cut off"
    calls = choice.message.tool_calls or ()
    if wanted == "auto":
        # Half a call would be left in the text.
        broken = not calls and "<tool_call>" in (choice.message.content or "")
        return "a call is left as text" if broken else "called" if calls else "said"
    if not calls:
        return "calls nothing"
    named = {call.function.name for call in calls}
    return "called" if wanted == "required" or named == {wanted} else f"calls {sorted(named)} in place of {wanted}"


async def ask(adapter: OpenAIAdapter, number: int, wanted: str) -> str:
    """One request, and what became of it."""
    named = wanted not in ("auto", "required")
    request = {
        "messages": [{"role": "user", "content": ASKED[number % len(ASKED)]}],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": wanted}} if named else wanted,
        "temperature": 1,
        "seed": number,
        "max_tokens": 400,
    }
    try:
        reply = await adapter.achat_completion(request)
    except ApiError as error:
        return f"failed: {error.message}"
    return verdict(reply.choices[0], wanted)


async def run(adapter: OpenAIAdapter, count: int) -> dict[str, Counter[str]]:
    """What became of `count` calls that must be made and twice as many that may: by what was asked for."""
    names = list(SCHEMAS)
    wanted = [names[n // 2 % 3] if n % 2 else "required" for n in range(count)] + ["auto"] * (2 * count)
    free = asyncio.Semaphore(AT_ONCE)
    found: dict[str, Counter[str]] = {"must call": Counter(), "may call": Counter()}

    async def one(number: int, choice: str) -> None:
        async with free:
            found["may call" if choice == "auto" else "must call"][await ask(adapter, number, choice)] += 1

    await asyncio.gather(*(one(*each) for each in enumerate(wanted)))
    return found


def broken(found: dict[str, Counter[str]]) -> int:
    """How many answers broke the promise."""
    good = {"must call": {"called"}, "may call": {"called", "said", "cut off"}}
    return sum(count for kind, counts in found.items() for what, count in counts.items() if what not in good[kind])


def main() -> int:
    """Run what is asked for; how much is wrong."""
    count = int(sys.argv[1]) if sys.argv[1:] else 100
    with (
        InferenceEngine.builder().model_path("smollm2").max_batch_size(AT_ONCE).build() as engine,
        OpenAIAdapter(engine) as adapter,
    ):
        began = time.perf_counter()
        found = asyncio.run(run(adapter, count))
    for kind, counts in found.items():
        print(f"{kind}: {counts.total()} answers: {dict(counts.most_common())}")
    print(f"{time.perf_counter() - began:.0f} s; {broken(found)} broken")
    return broken(found)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
