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
