from pathlib import Path
from typing import Any

import pytest

from candle_vllm import ConfigError, EngineBuilder, EngineConfig


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_path", "", "a path"),
        ("model_path", 3, "a path"),
        ("device", "gpu", "cuda:N"),
        ("device", "cuda:x", "cuda:N"),
        ("dtype", "int8", "one of auto, f32"),
        ("dtype", None, "one of auto, f32"),
        ("activations", "int4", "one of auto, int8"),
        ("activations", 8, "one of auto, int8"),
        ("isq", "iq4_nl", "one of q4_0"),
        ("isq", 4, "one of q4_0"),
        ("max_batch_size", 0, "at least 1"),
        ("max_sequence_length", 0, "at least 1"),
        ("kv_cache_memory", 0, "at least 1"),
        ("kv_cache_memory", 1.5e9, "an integer"),
        ("kv_cache_dtype", "fp8_e5m2", "one of auto"),
        ("enable_chunked_prefill", 1, "True or False"),
        ("prefill_chunk_size", 0, "at least 1"),
        ("enable_prefix_cache", "yes", "True or False"),
        ("speculation", "draft", "one of off, ngram"),
        ("threads", 0, "at least 1"),
        ("cpu_affinity", "", "cores such as"),
        ("cpu_affinity", "1,", "cores such as"),
        ("cpu_affinity", "3-1", "cores such as"),
        ("cpu_affinity", "a", "cores such as"),
        ("cpu_affinity", "-1", "cores such as"),
        ("cpu_affinity", [], "cores such as"),
        ("cpu_affinity", 1, "cores such as"),
        ("cpu_affinity", [0, -1], "at least 0"),
        ("cpu_affinity", ["0"], "an integer"),
        ("enable_cuda_graph", "on", "True or False"),
        ("max_queue", -1, "at least 0"),
        ("background", None, "True or False"),
        ("generation_config", "vllm", "auto, none"),
        ("weight_file", "", "not empty"),
        ("revision", 7, "not empty"),
    ],
)
def test_a_bad_value_names_field_and_range(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineConfig(**{field: value})
    assert said in str(caught.value)
    assert str(caught.value).startswith(field)
    assert caught.value.field == field
    assert caught.value.expected is not None and caught.value.expected in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"), [("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f16"), ("auto", "auto"), ("f16", "f16")]
)
def test_names_of_dtypes(given: str, kept: str) -> None:
    assert EngineConfig(dtype=given).dtype == kept


@pytest.mark.parametrize(
    ("given", "kept"), [("0", (0,)), (" 2 - 4, 0", (2, 3, 4, 0)), ("1,1,0-1", (1, 0)), ([5, 3], (5, 3)), (None, None)]
)
def test_lists_of_cores(given: Any, kept: tuple[int, ...] | None) -> None:
    assert EngineConfig(cpu_affinity=given).cpu_affinity == kept


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(EngineConfig(hf_token="secret"))
    with pytest.raises(ConfigError) as caught:
        EngineConfig(hf_token=["secret"])  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_the_builder_knows_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    import candle_vllm.engine.inference as home

    seen: list[Any] = []
    monkeypatch.setattr(home, "InferenceEngine", lambda config, progress: seen.append((config, progress)))
    wanted: dict[str, Any] = {
        "model_path": Path("m"),
        "device": "cpu",
        "dtype": "f32",
        "activations": "int8",
        "isq": "q4_k",
        "max_batch_size": 3,
        "max_sequence_length": 100,
        "kv_cache_memory": 1 << 20,
        "kv_cache_dtype": "f32",
        "enable_chunked_prefill": False,
        "prefill_chunk_size": 64,
        "enable_prefix_cache": False,
        "speculation": "ngram",
        "threads": 2,
        "cpu_affinity": "0",
        "enable_cuda_graph": False,
        "max_queue": 5,
        "background": False,
        "generation_config": "none",
        "chat_template": "t.jinja",
        "weight_file": "w.gguf",
        "revision": "r",
        "hf_token": "t",
        "hf_token_path": "p",
    }
    assert set(wanted) == set(EngineConfig.__dataclass_fields__)
    builder = EngineBuilder()
    for field, value in wanted.items():
        assert getattr(builder, field)(value) is builder
    report = lambda stage, done, total: None  # noqa: E731
    builder.progress(report).build()
    assert seen == [(EngineConfig(**wanted), report)]
