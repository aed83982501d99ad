import pickle

import pytest

import candle_vllm
from candle_vllm import errors


def test_the_tree() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.CandleVllmError)
        assert getattr(candle_vllm, name) is getattr(errors, name)
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.RequestTimeoutError, TimeoutError)


@pytest.mark.parametrize("name", errors.__all__)
def test_the_drawing_names_every_class(name: str) -> None:
    assert errors.__doc__ is not None
    assert name in errors.__doc__


def test_a_refusal_speaks_to_whoever_asked() -> None:
    error = errors.ConfigError("top_k must be at least 1; got 0", field="top_k", value=0, expected="at least 1")
    assert error.named("--top-k") == "--top-k must be at least 1; got 0"
    assert errors.ConfigError("nothing fits").named("--top-k") == "nothing fits"


def test_a_refusal_crosses_processes() -> None:
    error = errors.ConfigError("top_k must be at least 1; got 0", field="top_k", value=0, expected="at least 1")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.value, copy.expected) == (str(error), "top_k", 0, "at least 1")
