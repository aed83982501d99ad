"""Python functions as tools: the model calls them, reads what they return, and answers. Each step is told.

SmolLM2 is the smallest of models and seldom calls anything; give a larger one's path for more.
"""

import sys
from datetime import UTC, datetime

from candle_vllm import ConversationOptions, ResponsesSession
from candle_vllm.conversations import ConversationFinished, ToolReturned, TurnStarted, TurnText


def current_time() -> str:
    """Tells the time in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def convert(amount: float, rate: float) -> float:
    """Converts an amount of money.

    Args:
        amount: What is to be converted.
        rate: What one unit of it is worth.
    """
    return round(amount * rate, 2)


model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
options = ConversationOptions(max_turns=4, timeout=120, request={"temperature": 0, "max_tokens": 120})
with ResponsesSession.builder().model_path(model).add_tool(current_time).add_tool(convert).build() as session:
    for event in session.run_conversation_stream("What time is it? And how much are 12 euros at 1.1?", options):
        match event:
            case TurnStarted(turn):
                print(f"--- turn {turn}")
            case TurnText(_, text):
                print(text, end="", flush=True)
            case ToolReturned(_, call):
                print(f"{call.name}({call.arguments}) -> {call.result.text}")
            case ConversationFinished(result):
                print(f"\n--- {result.finish_reason}: {result.usage}")
            case _:
                pass
