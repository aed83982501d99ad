"""Text between two others: each way of asking, over a fake and a real tokenizer; and models that know none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import InferenceEngine
from candle_vllm.openai import ApiError, OpenAIAdapter
from fake_engine import SPECIAL, FakeEngine

STYLES = [
    (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|fim_prefix|>a(<|fim_suffix|>)b<|fim_middle|>"),
    (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>a(<fim_suffix>)b<fim_middle>"),
    (("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"), "▁<PRE>a(▁<SUF>)b▁<MID>"),
    (
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        "<｜fim▁begin｜>a(<｜fim▁hole｜>)b<｜fim▁end｜>",
    ),
    (("[PREFIX]", "[SUFFIX]"), "[SUFFIX])b[PREFIX]a("),
]
ASK: dict[str, Any] = {"prompt": "a(", "suffix": ")b", "max_tokens": 5}


def spelled(engine: FakeEngine, tokens: list[int]) -> str:
    return b"".join(engine.token_bytes(token) for token in tokens).decode()


@pytest.mark.parametrize(("marks", "asked"), STYLES, ids=[row[0][0] for row in STYLES])
def test_how_each_kind_is_asked(marks: tuple[str, ...], asked: str) -> None:
    engine = FakeEngine(special={**SPECIAL, **{mark: 258 + at for at, mark in enumerate(marks)}}, answer="xyz")
    adapter = OpenAIAdapter(engine)
    reply = adapter.completion(ASK)
    prompt, params = engine.submitted[-1]
    assert spelled(engine, prompt) == asked
    assert reply.choices[0].text == "xyz"
    assert reply.usage is not None and reply.usage.prompt_tokens == len(prompt)
    assert params.stop_token_ids == ((261,) if "▁<EOT>" in marks else ())
    assert "".join(chunk.choices[0].text for chunk in adapter.completion_stream(ASK)) == "xyz"
    adapter.completion({**ASK, "prompt": [97, 40], "stop_token_ids": [5]})
    assert engine.submitted[-1][0] == prompt
    assert engine.submitted[-1][1].stop_token_ids[:1] == (5,)
    adapter.completion({**ASK, "suffix": ""})
    assert engine.submitted[-1][0] == [97, 40]
    with pytest.raises(ApiError) as refusal:
        adapter.completion({**ASK, "echo": True})
    assert refusal.value.param == "echo"


class Sentences(FakeEngine):
    """Puts a blank before a text that begins, and a first token where it is asked for, as Llama's tokenizer does."""

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        bare = super().tokenize(text)
        blank = [32] if bare and bare[0] < 256 else []
        return [*([256] if add_special_tokens else []), *blank, *bare]


def test_no_blank_comes_in_between() -> None:
    engine = Sentences(special={**SPECIAL, "▁<PRE>": 258, "▁<SUF>": 259, "▁<MID>": 260}, answer="x")
    OpenAIAdapter(engine).completion({**ASK, "prompt": "a", "suffix": " b"})
    assert engine.submitted[-1][0] == [256, 258, 97, 259, 32, 32, 98, 260]


def test_a_model_that_was_not_taught_it() -> None:
    with pytest.raises(ApiError, match="no tokens") as refusal:
        OpenAIAdapter(FakeEngine()).completion(ASK)
    assert (refusal.value.param, refusal.value.code) == ("suffix", "unsupported_parameter")


def test_over_a_real_tokenizer(tiny_model_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coder"
    shutil.copytree(tiny_model_path, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    model = {**tokenizer["added_tokens"][0]}
    for at, mark in enumerate(STYLES[0][0]):
        tokenizer["added_tokens"].append({**model, "id": 312 + at, "content": mark})
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    with (
        InferenceEngine.builder().model_path(folder).dtype("f32").threads(1).build() as engine,
        OpenAIAdapter(engine) as adapter,
    ):
        request = {**ASK, "prompt": "the cat", "suffix": " hat", "return_token_ids": True, "logprobs": 0}
        reply = adapter.completion(request)
        body = [312, *engine.tokenize("the cat"), 313, *engine.tokenize(" hat"), 314]
        assert reply.usage is not None and reply.usage.prompt_tokens == len(body)
        again = adapter.completion({**request, "prompt": body, "suffix": None, "seed": 1, "temperature": 0})
        asked = adapter.completion({**request, "seed": 1, "temperature": 0})
        assert asked.choices[0].text == again.choices[0].text
