"""SmolLM2-135M-Instruct against transformers in float32: greedy text and perplexity, exact and default mode.

The reference's weights were rounded to bfloat16, ours are the file's own: single log-probabilities differ by up to 0.1,
the perplexity hardly.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from candle_vllm import GenerationParams, InferenceEngine

from .reference import smollm2

REFERENCE = smollm2()
MARGIN = 1e-2


@pytest.fixture(scope="module", params=["f32", "auto"])
def engine(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[InferenceEngine]:
    builder = InferenceEngine.builder().model_path(smollm2_path).dtype(request.param).max_sequence_length(1024)
    with builder.build() as engine:
        yield engine


def test_perplexity(engine: InferenceEngine) -> None:
    allowed = 1e-3 if engine.model_info.kv_dtype == "f32" else 5e-3
    sums = {"got": 0.0, "want": 0.0}
    for text in REFERENCE["texts"]:
        output = engine.generate(text["token_ids"], GenerationParams(max_tokens=0, prompt_logprobs=0))
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        own = [entry.logprob for entry in output.prompt_logprobs if entry is not None]
        assert len(own) == len(text["logprobs"])
        sums["got"] += sum(own)
        sums["want"] += sum(text["logprobs"])
    count = sum(len(text["logprobs"]) for text in REFERENCE["texts"])
    got, want = (np.exp(-sums[name] / count) for name in ("got", "want"))
    assert abs(got / want - 1) <= allowed


def test_greedy_text(engine: InferenceEngine) -> None:
    if engine.model_info.kv_dtype != "f32":
        pytest.skip("margins are those of the exact mode")
    for chat in REFERENCE["chats"]:
        want = chat["greedy_token_ids"]
        params = GenerationParams(max_tokens=len(want), temperature=0, ignore_eos=True)
        got = list(engine.generate(chat["prompt_token_ids"], params).tokens)
        unsure = np.flatnonzero(np.array(chat["margins"]) < MARGIN)
        sure = int(unsure[0]) if len(unsure) else len(want)
        assert got[:sure] == want[:sure]
