"""Quantised safetensors mean what their format's definition says: the logits are those of the dequantised weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from candle_vllm import InferenceEngine

from . import formats
from .test_goldens import SPREAD, all_positions

PROMPT = np.random.RandomState(3).randint(4, 300, size=40).tolist()


def rows(path: Path, dtype: str) -> np.ndarray:
    builder = InferenceEngine.builder().model_path(path).dtype(dtype).threads(2).max_sequence_length(128)
    with builder.build() as engine:
        return all_positions(engine, PROMPT)


@pytest.mark.parametrize("case", formats.CASES)
def test_logits_are_those_of_the_dequantised_weights(case: str, tmp_path: Path) -> None:
    coded, dense = formats.write(case, tmp_path)
    want = rows(dense, "f32")
    assert np.abs(rows(coded, "f32") - want).max() <= 1e-5 * want.std()
    near = rows(coded, "auto") - want
    assert np.sqrt(np.mean(near**2)) <= SPREAD * want.std()


def test_experts_of_gpt_oss_are_read_in_mxfp4(materialize: Callable[[str], Path], tmp_path: Path) -> None:
    coded, dense = formats.write_gpt_oss(materialize("gpt_oss"), tmp_path)
    want = rows(dense, "f32")
    assert np.abs(rows(coded, "f32") - want).max() <= 1e-5 * want.std()
