"""What replicas are."""

from __future__ import annotations

import pickle

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ConfigError
from candle_vllm.ray import RayConfig

ENGINE = EngineConfig(model_path="smollm2", threads=3, max_batch_size=5)


def test_places_and_cores() -> None:
    config = RayConfig(engine=ENGINE)
    assert (config.places, config.cores) == (10, 3.0)
    assert RayConfig(engine=ENGINE, cpus=0.5).cores == 0.5
    assert RayConfig().cores == 1.0


def test_it_travels() -> None:
    config = RayConfig(engine=ENGINE, replicas=2, names=("a",))
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 0},
        {"replicas": 3, "most_replicas": 2},
        {"max_queued": 0},
        {"more_after": -1},
        {"fewer_after": -1},
        {"grace": -1},
    ],
)
def test_what_is_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        RayConfig(engine=ENGINE, **wrong)  # type: ignore[arg-type]
