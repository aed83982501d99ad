"""vLLM's names over SmolLM2: what its users write, and what they get."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from candle_vllm import ConfigError, tools
from candle_vllm.compat import LLM, SamplingParams, StructuredOutputsParams
from candle_vllm.generation import RequestError
from candle_vllm.openai import OpenAIAdapter

GREEDY = SamplingParams(temperature=0, max_tokens=12)
ASK = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("smollm2", max_model_len=1024, max_num_seqs=8, seed=5) as llm:
        yield llm


def test_texts_and_token_ids_in_their_order(llm: LLM) -> None:
    ids = llm.engine.tokenize("The sea is")
    outputs = llm.generate(["The sea is", "Rust is", "The sea is"], GREEDY)
    assert [output.prompt for output in outputs] == ["The sea is", "Rust is", "The sea is"]
    first, second, third = (output.outputs[0] for output in outputs)
    assert first == third
    assert first.text != second.text
    assert (first.finish_reason, len(first.token_ids), first.logprobs) == ("length", 12, None)
    assert llm.engine.detokenize(first.token_ids) == first.text
    for prompt in (ids, {"prompt_token_ids": ids}, {"prompt": "The sea is"}):
        [output] = llm.generate(prompt, GREEDY)
        assert output.prompt_token_ids == ids
        assert output.outputs[0] == first
    assert len({output.request_id for output in outputs}) == 3
    assert llm.generate([], GREEDY) == []


def test_each_prompt_has_its_parameters(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, temperature=0) for n in (1, 5)]
    assert [len(output.outputs[0].token_ids) for output in llm.generate(["a b", "a b"], params)] == [1, 5]
    with pytest.raises(ConfigError, match="as many as the prompts"):
        llm.generate(["a"], params)


def test_several_answers_their_seeds_and_scores(llm: LLM) -> None:
    params = SamplingParams(n=3, max_tokens=8, seed=1, logprobs=2, prompt_logprobs=1)
    one, again = (llm.generate("The sea is", params)[0] for _ in range(2))
    assert one.outputs == again.outputs
    assert again.num_cached_tokens <= len(again.prompt_token_ids)
    assert len({output.text for output in one.outputs}) > 1
    for output in one.outputs:
        assert output.logprobs is not None
        assert len(output.logprobs) == len(output.token_ids)
        chosen = [scores[token].logprob for token, scores in zip(output.token_ids, output.logprobs, strict=True)]
        assert output.cumulative_logprob == pytest.approx(sum(chosen))
        assert all(
            2 <= len(scores) <= 3 and next(iter(scores)) == token
            for token, scores in zip(output.token_ids, output.logprobs, strict=True)
        )
        assert all(math.isfinite(value) for value in chosen)
    assert one.prompt_logprobs is not None
    assert one.prompt_logprobs[0] is None
    assert len(one.prompt_logprobs) == len(one.prompt_token_ids)
    # A seed of the model's stands in for requests that have none.
    plain = SamplingParams(max_tokens=8)
    assert llm.generate("The sea is", plain)[0].outputs == llm.generate("The sea is", plain)[0].outputs


def test_stops_words_and_forms(llm: LLM) -> None:
    said = llm.chat(ASK, GREEDY)[0].outputs[0].text
    assert "Paris" in said
    [stopped] = llm.chat(ASK, SamplingParams(temperature=0, max_tokens=12, stop=["Paris"]))[0].outputs
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", "Paris")
    assert "Paris" not in stopped.text
    assert "Paris" not in llm.chat(ASK, SamplingParams(temperature=0, bad_words=["Paris"]))[0].outputs[0].text
    form = StructuredOutputsParams(choice=["yes", "no"])
    assert llm.chat(ASK, SamplingParams(structured_outputs=form))[0].outputs[0].text in ("yes", "no")


def test_a_chat_says_what_the_adapter_says(llm: LLM) -> None:
    with OpenAIAdapter(llm.engine) as adapter:
        whole = adapter.chat_completion({"messages": ASK, "temperature": 0, "max_tokens": 12})
    one, other = llm.chat([ASK, ASK], GREEDY)
    assert one.outputs[0].text == other.outputs[0].text == whole.choices[0].message.content
    assert one.prompt is not None
    assert one.prompt.endswith("<|im_start|>assistant\n")
    begun: list[dict[str, Any]] = [*ASK, {"role": "assistant", "content": "The capital"}]
    [output] = llm.chat(begun, GREEDY, add_generation_prompt=False, continue_final_message=True)
    assert output.prompt is not None
    assert output.prompt.endswith("The capital")


def test_tools_are_shown_and_calls_are_text(llm: LLM) -> None:
    [output] = llm.chat(ASK, GREEDY, tools=[TOOL])
    assert output.prompt is not None
    assert "weather" in output.prompt
    call = tools.ToolCall("id", "weather", json.dumps({"city": "Paris"}))
    assert tools.parse(tools.find("generic").write([call]), "generic").tool_calls[0].name == "weather"


def test_what_cannot_be_honoured(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_size"):
        LLM("smollm2", tensor_parallel_size=2)
    with pytest.raises(ConfigError, match="gpu_memory_utilization"):
        LLM("smollm2", gpu_memory_utilization=0.9)
    with pytest.raises(TypeError):
        SamplingParams(length_penalty=2)  # type: ignore[call-arg]
    with pytest.raises(RequestError, match="temperature"):
        llm.generate(["good", "bad"], [GREEDY, SamplingParams(temperature=-1)])
    with pytest.raises(ConfigError, match="exactly one"):
        llm.generate("x", SamplingParams(structured_outputs=StructuredOutputsParams(regex="a", choice=["b"])))
    assert llm.engine.stats().running == 0
