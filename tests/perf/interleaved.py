"""Two engines measured in turns: each in a process of its own, one idle while the other works, medians and ratios.

A runner computes what it is given; the time is taken here. Knows nothing of the peers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

PYTHON_SOURCES = Path(__file__).resolve().parents[2] / "python"


class Runner(Protocol):
    """One engine with the model loaded."""

    def prefill(self, prompt: list[int]) -> None:
        """Compute the prompt and its first token; nothing of earlier prompts may be reused."""

    def together(self, prompts: list[list[int]], tokens: int) -> None:
        """Compute all prompts and decode ``tokens`` greedy tokens of each, whatever the end-of-sequence ids."""


class Ours:
    """candle-vllm, running by itself as programs use it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from candle_vllm import GenerationParams, InferenceEngine

        self._params = GenerationParams
        builder = InferenceEngine.builder().model_path(args.model).threads(args.threads)
        builder.max_batch_size(max(args.batch)).enable_prefix_cache(False).max_sequence_length(context(args))
        self._engine = builder.build()
        self.vocabulary = self._engine.model_info.vocab_size

    def prefill(self, prompt: list[int]) -> None:
        """See Runner."""
        self.together([prompt], 1)

    def together(self, prompts: list[list[int]], tokens: int) -> None:
        """See Runner."""
        params = self._params(max_tokens=tokens, temperature=0, ignore_eos=True)
        for output in self._engine.generate(prompts, params):
            if len(output.tokens) != tokens:
                raise SystemExit(f"a request made {len(output.tokens)} of {tokens} tokens: {output.stop_reason}")


def context(args: argparse.Namespace) -> int:
    """Tokens of the longest sequence."""
    return int(max(*args.prompt, args.decode_prompt + args.decode_tokens)) + 16


def main(peer: str, make: Callable[[argparse.Namespace], Runner]) -> None:
    """Parse the arguments; measure, or be one of the two processes."""
    args = _parser(peer).parse_args()
    if args.worker is not None:
        _work(Ours(args) if args.worker == "candle-vllm" else make(args))
        return
    names = ("candle-vllm", peer)
    workers = {name: _Worker(name, args) for name in names}
    cases = [("prefill", length) for length in args.prompt] + [("decode", batch) for batch in args.batch]
    print(f"{args.model}, {args.threads} threads, medians of {args.repeats} in turns, tokens/s")
    print(f"{'':>14} {names[0]:>14} {names[1]:>14} {'ratio':>7}")
    for kind, size in cases:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for turn in range(args.repeats + 1):
            # Who goes first changes, and the first turn warms up.
            for name in names if turn % 2 else reversed(names):
                seconds = workers[name].seconds(kind, size, args, turn)
                if turn:
                    times[name].append(seconds)
        ours, theirs = (_rate(kind, size, args, times[name]) for name in names)
        print(f"{kind + ' ' + str(size):>14} {ours:14.1f} {theirs:14.1f} {ours / theirs:6.2f}x", flush=True)
    for worker in workers.values():
        worker.close()


def _parser(peer: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"candle-vllm and {peer} on the same work, in turns.")

    def sizes(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser.add_argument("model", help=".gguf file")
    parser.add_argument("--prompt", type=sizes, default=[512, 2048], help="prompt lengths")
    parser.add_argument("--batch", type=sizes, default=[1, 16, 64], help="sequences that decode together")
    parser.add_argument("--decode-prompt", type=int, default=64)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peer")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _rate(kind: str, size: int, args: argparse.Namespace, times: list[tuple[float, float]]) -> float:
    """Tokens per second from the medians; not a number where noise is larger than what was measured."""
    first = statistics.median(first for first, _ in times)
    whole = statistics.median(whole for _, whole in times)
    if kind == "prefill":
        return size / first
    tokens: int = size * (args.decode_tokens - 1)
    return tokens / (whole - first) if whole > first else math.nan


class _Worker:
    """A process with one engine: a line of JSON in, a line of JSON out."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        python = sys.executable if name == "candle-vllm" else args.peer_python
        sizes = [f"--{flag}={','.join(map(str, getattr(args, flag)))}" for flag in ("prompt", "batch")]
        counts = [f"--{flag}={vars(args)[flag.replace('-', '_')]}" for flag in ("decode-prompt", "decode-tokens")]
        command = [python, sys.argv[0], args.model, *sizes, *counts, f"--threads={args.threads}", "--worker", name]
        path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(PYTHON_SOURCES)]).strip(os.pathsep)
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        self._ask(None)

    def seconds(self, kind: str, size: int, args: argparse.Namespace, seed: int) -> tuple[float, float]:
        """One turn: seconds to the first tokens alone, and to all tokens (the same for a prefill)."""
        if kind == "prefill":
            return (self._ask({"lengths": [size], "tokens": 1, "seed": seed}),) * 2
        lengths = [args.decode_prompt] * size
        first = self._ask({"lengths": lengths, "tokens": 1, "seed": seed})
        whole = self._ask({"lengths": lengths, "tokens": args.decode_tokens, "seed": seed})
        return first, whole

    def _ask(self, case: dict[str, Any] | None) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if case is not None:
            self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            # Engines may write lines of their own.
            if line.startswith("SECONDS "):
                return float(line.split()[1])
        raise SystemExit(f"{self._name} has ended with status {self._process.wait()}; what it said is above")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _work(runner: Any) -> None:
    """Answer cases until the input ends."""
    print("SECONDS 0", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        draw = random.Random(case["seed"])
        prompts = [draw.choices(range(3, runner.vocabulary), k=length) for length in case["lengths"]]
        began = time.perf_counter()
        if len(prompts) == 1 and case["tokens"] == 1:
            runner.prefill(prompts[0])
        else:
            runner.together(prompts, case["tokens"])
        print(f"SECONDS {time.perf_counter() - began}", flush=True)
