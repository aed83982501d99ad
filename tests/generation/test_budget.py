"""Thinking that is closed by force: what is kept and counted, the same streamed and whole, and over a real model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import InferenceEngine
from candle_vllm.openai import ApiError, ChatCompletion, OpenAIAdapter
from candle_vllm.params import GenerationParams
from fake_engine import CHATML, FakeEngine

ASK: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "2 + 2?"}]}
THINKS = "{# <think> #}" + CHATML
OPENS = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
ENDING = "\n</think>\n\n"


class Thinker(FakeEngine):
    """Thinks 26 letters long; once its thinking is closed it answers, with thoughts that come again where asked for."""

    def _said(self, prompt: list[int], params: GenerationParams) -> str:
        asked = self.detokenize(prompt)
        if asked.endswith(ENDING):
            return "Four."
        opened = asked.endswith("<think>\n")
        return ("" if opened else "<think>") + "abcdefghijklmnopqrstuvwxyz</think>Four, of course."


def adapter_over(template: str, **settings: Any) -> tuple[Thinker, OpenAIAdapter]:
    engine = Thinker(chat_templates={"default": template}, **settings)
    return engine, OpenAIAdapter(engine)


@pytest.mark.parametrize("template", [THINKS, OPENS])
@pytest.mark.parametrize(
    ("budget", "thought", "answer"),
    [
        (0, None, "Four."),
        (1, "a", "Four."),
        (10, "abcdefghij", "Four."),
        (100, "abcdefghijklmnopqrstuvwxyz", "Four, of course."),
        (None, "abcdefghijklmnopqrstuvwxyz", "Four, of course."),
    ],
)
def test_thinking_ends_with_its_budget(template: str, budget: int | None, thought: str | None, answer: str) -> None:
    engine, adapter = adapter_over(template)
    request = {**ASK, "thinking_token_budget": budget, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    reply = adapter.chat_completion(request)
    [choice] = reply.choices
    assert (choice.message.reasoning, choice.message.content, choice.finish_reason) == (thought, answer, "stop")
    deltas = [chunk.choices[0] for chunk in adapter.chat_completion_stream(request)]
    assert ("".join(each.delta.reasoning or "" for each in deltas) or None) == thought
    assert "".join(each.delta.content or "" for each in deltas) == answer
    assert deltas[-1].finish_reason == "stop"
    assert choice.token_ids is not None and choice.logprobs is not None
    assert len(choice.logprobs.content or ()) == len(choice.token_ids)
    assert reply.usage is not None
    # The token that ended the answer is counted, and no part of it.
    assert reply.usage.completion_tokens == len(choice.token_ids) + 1
    text = engine.detokenize(choice.token_ids)
    opened = "" if template is OPENS else "<think>"
    assert text == opened + (thought or "") + (ENDING if answer == "Four." else "</think>") + answer
    assert reply.usage.completion_tokens_details.reasoning_tokens == len(thought or "")
    assert not engine.live


def test_what_the_second_request_is_asked() -> None:
    engine, adapter = adapter_over(OPENS)
    adapter.chat_completion({**ASK, "thinking_token_budget": 4, "max_tokens": 40, "seed": 3, "cache_salt": "s"})
    (prompt, first), (longer, second) = engine.submitted
    assert longer[: len(prompt)] == prompt
    assert engine.detokenize(longer[len(prompt) :]) == "abcd" + ENDING
    assert second.max_tokens == first.max_tokens - (len(longer) - len(prompt))
    assert (second.seed, engine.how["cache_salt"]) == (3, "s")


def test_a_form_binds_what_follows() -> None:
    engine, adapter = adapter_over(OPENS)
    adapter.chat_completion({**ASK, "thinking_token_budget": 4, "response_format": {"type": "json_object"}})
    before, after = (params.form for _, params in engine.submitted)
    assert before is not None and before.after == "</think>"
    assert after is not None and after.after is None and after.json_object


def test_no_room_to_close_it() -> None:
    _, adapter = adapter_over(OPENS)
    [choice] = adapter.chat_completion({**ASK, "thinking_token_budget": 4, "max_tokens": 10}).choices
    assert (choice.message.reasoning, choice.message.content, choice.finish_reason) == ("abcd", "", "length")


def test_several_answers_each_have_their_budget() -> None:
    _, adapter = adapter_over(OPENS)
    reply = adapter.chat_completion({**ASK, "thinking_token_budget": 2, "n": 3})
    assert [(each.message.reasoning, each.message.content) for each in reply.choices] == [("ab", "Four.")] * 3


async def test_cancelling_frees_either_request() -> None:
    engine, adapter = adapter_over(OPENS, delay=0.01)
    for moments in (1, 30):
        stream = adapter.achat_completion_stream({**ASK, "thinking_token_budget": 5})
        await anext(stream)
        await asyncio.sleep(0.005 * moments)
        await stream.aclose()
        assert not engine.live


@pytest.mark.parametrize("field", ["thinking_token_budget"])
def test_a_model_that_does_not_think(field: str) -> None:
    with pytest.raises(ApiError, match="does not reason") as refusal:
        OpenAIAdapter(FakeEngine()).chat_completion({**ASK, field: 5})
    assert refusal.value.param == field


def test_over_a_real_model(tmp_path: Path) -> None:
    """SmolLM2 in a template that opens a thinking which it has no notion of ending."""
    template = tmp_path / "template.jinja"
    template.write_text(OPENS, encoding="utf-8")
    builder = InferenceEngine.builder().model_path("smollm2").chat_template(template)
    with builder.build() as engine, OpenAIAdapter(engine) as adapter:
        asked = {"messages": [{"role": "user", "content": "Tell me a long story."}], "ignore_eos": True}
        request = {**asked, "thinking_token_budget": 12, "max_tokens": 40, "seed": 1, "logprobs": True}
        seen: list[ChatCompletion] = [adapter.chat_completion(request) for _ in range(2)]
        [choice] = seen[0].choices
        assert choice.message == seen[1].choices[0].message
        assert choice.message.content
        assert 10 <= len(engine.tokenize(choice.message.reasoning or "")) <= 13
        deltas = [chunk.choices[0].delta for chunk in adapter.chat_completion_stream(request)]
        assert "".join(delta.reasoning or "" for delta in deltas) == choice.message.reasoning
        assert "".join(delta.content or "" for delta in deltas) == choice.message.content
        assert choice.logprobs is not None
        assert all(entry.logprob <= 0 for entry in choice.logprobs.content or ())
        assert seen[0].usage is not None
        assert seen[0].usage.completion_tokens == 40
