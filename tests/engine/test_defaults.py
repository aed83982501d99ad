"""What a prompt without parameters gets: the checkpoint's recommendation, unless it is left aside."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from candle_vllm import ConfigError, GenerationParams, InferenceEngine, sources
from candle_vllm.models import LoadedModel, SamplingDefaults


@pytest.fixture(scope="module")
def advised(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with a recommendation: always the likeliest token."""
    target = tmp_path_factory.mktemp("advised") / "advised"
    shutil.copytree(tiny_model_path, target)
    advice = {"temperature": 0.0, "top_k": 5, "repetition_penalty": 1.25, "max_new_tokens": 3}
    (target / "generation_config.json").write_text(json.dumps(advice), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def engine(advised: Path) -> Iterator[InferenceEngine]:
    with InferenceEngine.builder().model_path(advised).build() as engine:
        yield engine


def test_the_recommendation_is_told(engine: InferenceEngine) -> None:
    assert engine.model_info.generation_config == {"temperature": 0.0, "top_k": 5, "repetition_penalty": 1.25}
    assert hash(engine.model_info) == hash(engine.model_info)


async def test_a_prompt_without_parameters_follows_it(engine: InferenceEngine) -> None:
    greedy = engine.generate([1, 2, 3], GenerationParams(temperature=0.0, repetition_penalty=1.25, top_k=5)).tokens
    assert engine.generate([1, 2, 3]).tokens == greedy
    assert [one.tokens for one in engine.generate([[1, 2, 3], [1, 2, 3]])] == [greedy, greedy]
    assert engine.add_request([1, 2, 3]).result().tokens == greedy
    assert (await engine.generate_async([1, 2, 3])).tokens == greedy


def test_parameters_are_taken_as_they_are(engine: InferenceEngine) -> None:
    assert engine.default_params(max_tokens=7, top_k=None) == GenerationParams(
        temperature=0.0, repetition_penalty=1.25, max_tokens=7
    )
    with pytest.raises(ConfigError, match="top_p"):
        engine.default_params(top_p=7)
    plain = GenerationParams(seed=3, max_tokens=20)
    assert engine.generate([1, 2, 3], plain).tokens != engine.generate([1, 2, 3]).tokens[:20]


def test_it_can_be_left_aside(advised: Path) -> None:
    with InferenceEngine.builder().model_path(advised).generation_config("none").build() as engine:
        assert engine.model_info.generation_config == {}
        assert engine.default_params() == GenerationParams()
        assert LoadedModel.over(engine).defaults == SamplingDefaults()


def test_what_a_server_says_goes_before_it(engine: InferenceEngine) -> None:
    model = LoadedModel.over(engine, defaults=SamplingDefaults(temperature=0.5, min_p=0.1))
    assert model.defaults == SamplingDefaults(temperature=0.5, min_p=0.1, top_k=5, repetition_penalty=1.25)


def test_the_default_model_carries_its_card_s_values(smollm2_engine: InferenceEngine) -> None:
    assert smollm2_engine.model_info.generation_config == {"temperature": 0.2, "top_p": 0.9}
    assert sources.recommended_sampling(Path("elsewhere.gguf")) == {}
