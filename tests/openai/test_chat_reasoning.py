"""Thinking over chat completions: told apart from the answer and from calls, the same streamed and whole."""

from __future__ import annotations

from typing import Any

import pytest

from candle_vllm.openai import OpenAIAdapter
from fake_engine import CHATML, FakeEngine

ASK: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "2 + 2?"}]}
THINKS = "{# <think> #}" + CHATML
OPENS = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (THINKS, "<think>\nTwo and <tool_call> two.\n</think>\n\nFour."),
        (OPENS, "Two and <tool_call> two.\n</think>\n\nFour."),
    ],
)
def test_thinking_streamed_and_whole(template: str, said: str) -> None:
    adapter = OpenAIAdapter(FakeEngine(answer=said, chat_templates={"default": template}))
    tools = [{"type": "function", "function": {"name": "add"}}]
    for request in (ASK, {**ASK, "tools": tools}):
        reply = adapter.chat_completion(request)
        message = reply.choices[0].message
        assert (message.content, message.reasoning, message.tool_calls) == ("Four.", "Two and <tool_call> two.", None)
        assert message.reasoning_content == message.reasoning
        assert reply.usage is not None
        assert reply.usage.completion_tokens_details.reasoning_tokens == len("Two and <tool_call> two.")
        deltas = [chunk.choices[0].delta for chunk in adapter.chat_completion_stream(request)]
        assert "".join(delta.content or "" for delta in deltas) == "Four."
        assert "".join(delta.reasoning_content or "" for delta in deltas) == "Two and <tool_call> two."


def test_models_that_do_not_think_say_tags_as_text() -> None:
    adapter = OpenAIAdapter(FakeEngine(answer="<think>x</think>y"))
    message = adapter.chat_completion(ASK).choices[0].message
    assert (message.content, message.reasoning) == ("<think>x</think>y", None)


def test_an_answer_cut_off_while_thinking() -> None:
    adapter = OpenAIAdapter(FakeEngine(answer="<think>long long thoughts", chat_templates={"default": THINKS}))
    choice = adapter.chat_completion({**ASK, "max_tokens": 12}).choices[0]
    assert (choice.message.content, choice.message.reasoning, choice.finish_reason) == ("", "long", "length")
