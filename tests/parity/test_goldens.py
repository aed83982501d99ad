"""The exact mode computes what transformers computes, for every architecture, container and ggml type.

Logits are compared as log-probabilities: a constant added to all logits of a row has no meaning.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from candle_vllm import GenerationParams, InferenceEngine, TokenLogprob

from .reference import FORMATS, GGML_TYPES, GGUF_CASES, GOLDENS, HF_CASES, archive, log_softmax

TOLERANCE = 1e-3  # of the reference logits' standard deviation
SPREAD = 5e-2  # root mean square, in the default mode: guards against faults; test_smollm2.py judges the accuracy
MARGIN = 1e-2  # a smaller gap between the two best tokens may fall either way


def whole(entry: TokenLogprob, vocab: int) -> np.ndarray:
    row = np.full(vocab, np.nan)
    for token, logprob in entry.top:
        row[token] = logprob
    assert not np.isnan(row).any()
    return row


def all_positions(engine: InferenceEngine, prompt: list[int]) -> np.ndarray:
    """Log-probabilities of the next token after each token of the prompt, shape [len(prompt), vocab]."""
    params = GenerationParams(max_tokens=1, temperature=0, ignore_eos=True, logprobs=-1, prompt_logprobs=-1)
    output = engine.generate(prompt, params)
    assert output.prompt_logprobs is not None
    assert output.logprobs is not None
    entries = [entry for entry in output.prompt_logprobs if entry is not None] + list(output.logprobs)
    return np.stack([whole(entry, engine.model_info.vocab_size) for entry in entries])


def worst(engine: InferenceEngine, reference: dict[str, np.ndarray]) -> float:
    """Largest distance over all prompts, in standard deviations of the reference logits."""
    gaps = []
    for k in range(3):
        logits = reference[f"logits_{k}"]
        got = all_positions(engine, reference[f"prompt_{k}"].tolist())[-len(logits) :]
        gaps.append(float(np.abs(got - log_softmax(logits)).max() / logits.std()))
    return max(gaps)


def exact(path: Path) -> InferenceEngine:
    return InferenceEngine.builder().model_path(path).dtype("f32").threads(2).max_sequence_length(128).build()


@pytest.mark.parametrize("case", [f"hf/{c}" for c in HF_CASES] + [f"gguf/{c}" for c in GGUF_CASES])
def test_architectures(case: str, checkpoint: Callable[[str], Path]) -> None:
    reference = archive(GOLDENS / "hf" / case.split("/")[1] / "reference.npz")
    with exact(checkpoint(case)) as engine:
        assert worst(engine, reference) <= TOLERANCE
        for k in range(3):
            params = GenerationParams(max_tokens=16, temperature=0, ignore_eos=True)
            got = engine.generate(reference[f"prompt_{k}"].tolist(), params).tokens
            want = reference[f"greedy_{k}"].tolist()
            unsure = np.flatnonzero(reference[f"margin_{k}"] < MARGIN)
            sure = int(unsure[0]) if len(unsure) else len(want)
            assert list(got[:sure]) == want[:sure]
        # The prompt's own tokens, one by one: the sum the perplexity is made of.
        for k in (1, 2):
            prompt = reference[f"prompt_{k}"]
            rows = all_positions(engine, prompt.tolist())[:-1]
            own = rows[np.arange(len(prompt) - 1), prompt[1:]]
            assert np.abs(own - reference[f"logprobs_{k}"]).max() <= TOLERANCE * reference[f"logits_{k}"].std()


@pytest.mark.parametrize("kind", GGML_TYPES)
def test_ggml_types(kind: str, checkpoint: Callable[[str], Path]) -> None:
    with exact(checkpoint(f"ggml/{kind}")) as engine:
        assert worst(engine, archive(GOLDENS / "ggml" / f"{kind}.npz")) <= TOLERANCE


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(kind: str, checkpoint: Callable[[str], Path]) -> None:
    with exact(checkpoint(f"formats/{kind}")) as engine:
        assert worst(engine, archive(GOLDENS / "formats" / kind / "reference.npz")) <= TOLERANCE


@pytest.mark.parametrize("case", [f"ggml/{kind}" for kind in GGML_TYPES] + [f"formats/{kind}" for kind in FORMATS])
def test_the_default_mode_stays_near(case: str, checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint(case)
    reference = archive(path / "reference.npz" if path.is_dir() else path.with_suffix(".npz"))
    builder = InferenceEngine.builder().model_path(path).threads(2).max_sequence_length(256)
    with builder.build() as engine:
        for k in range(3):
            logits = reference[f"logits_{k}"]
            got = all_positions(engine, reference[f"prompt_{k}"].tolist())[-len(logits) :]
            gap = got - log_softmax(logits)
            assert np.sqrt(np.mean(gap**2)) <= SPREAD * logits.std()
