"""Two engines measured in turns: each in a process of its own, one idle while the other works, medians and ratios.

A runner computes what it is given; the time is taken here. Knows nothing of the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

PYTHON_SOURCES = Path(__file__).resolve().parents[2] / "python"

EPILOG = """\
Rows of the table, all in tokens/s:
  prefill N          a prompt of N tokens alone, up to its first token
  decode N           N prompts that decode together, from when each of them has a token
  output N           the same run, prompts included: generated tokens by all of the time
  decode at N        one sequence that decodes behind a prompt of N tokens (--long)
Each figure is the median over --repeats turns; in each turn both engines do the same work on the same random tokens,
one after the other, and who goes first changes. A ratio above 1 means that candle-vllm is faster.
"""


class Runner(Protocol):
    """One engine with the model loaded."""

    vocabulary: int
    """Number of token ids."""

    def prepare(self, lengths: list[int], tokens: int) -> None:
        """Make room for such a run; outside of what is timed."""

    def together(self, prompts: list[list[int]], tokens: int) -> Iterator[int]:
        """Compute all prompts and decode ``tokens`` greedy tokens of each, whatever the end-of-sequence ids.

        Yields once, as soon as each prompt has a token: how many tokens all of them have by then. Nothing of earlier
        prompts may be reused.
        """


class Ours:
    """candle-vllm, running by itself as programs use it."""

    def __init__(self, args: argparse.Namespace) -> None:
        from candle_vllm import GenerationParams, InferenceEngine

        self._params = GenerationParams
        builder = InferenceEngine.builder().model_path(args.model[0]).threads(args.threads)
        builder.max_batch_size(max(1, *args.batch)).enable_prefix_cache(False).max_sequence_length(context(args))
        self._engine = builder.build()
        self.vocabulary = self._engine.model_info.vocab_size

    def prepare(self, lengths: list[int], tokens: int) -> None:
        """See Runner."""

    def together(self, prompts: list[list[int]], tokens: int) -> Iterator[int]:
        """See Runner."""
        params = self._params(max_tokens=tokens, temperature=0, ignore_eos=True)
        handles = [self._engine.add_request(prompt, params) for prompt in prompts]
        # The last one in has its first token last; a chunk of another holds all that it has by then.
        yield sum(len(next(handle).token_ids) for handle in reversed(handles))
        for handle in handles:
            output = handle.result()
            if len(output.tokens) != tokens:
                raise SystemExit(f"a request made {len(output.tokens)} of {tokens} tokens: {output.stop_reason}")


def context(args: argparse.Namespace) -> int:
    """Tokens of the longest sequence."""
    return int(max(*args.prompt, args.decode_prompt + args.decode_tokens, args.long + args.long_tokens)) + 16


@dataclass(frozen=True)
class Case:
    """Prompts of these lengths that generate so many tokens each, and the names of the rates that are looked at."""

    prefill: str | None
    decode: str | None
    lengths: list[int]
    tokens: int


@dataclass(frozen=True)
class Turn:
    """One run of a case."""

    first: float
    """Seconds until each prompt had a token."""
    whole: float
    """Seconds until all tokens were there."""
    early: int
    """Tokens that all prompts together had after the first of these times."""


@dataclass(frozen=True)
class Row:
    """One row of the table: medians in tokens/s, and the turns they are of."""

    model: str
    name: str
    ours: float
    peer: float
    ratio: float
    ours_turns: list[float]
    peer_turns: list[float]


def main(peer: str, make: Callable[[argparse.Namespace], Runner]) -> None:
    """Parse the arguments; measure, or be one of the two processes."""
    args = _parser(peer).parse_args()
    if args.worker is not None:
        _work(Ours(args) if args.worker == "candle-vllm" else make(args))
        return
    for model in args.model:
        if not Path(model).is_file():
            raise SystemExit(f"{model}: there is no such file")
    rows: list[Row] = []
    names = ("candle-vllm", peer)
    print(f"{args.threads} threads, medians of {args.repeats} in turns, tokens/s")
    for model in args.model:
        print(f"\n{model}\n{'':>16} {names[0]:>14} {names[1]:>14} {'ratio':>7}", flush=True)
        workers = [_Worker(name, model, args) for name in names]
        try:
            for case in _cases(args):
                rows += (found := list(_measure(case, model, workers, args)))
                for row in found:
                    print(f"{row.name:>16} {row.ours:14.1f} {row.peer:14.1f} {row.ratio:6.2f}x", flush=True)
        finally:
            for worker in workers:
                worker.close()
    if args.json is not None:
        facts = {"peer": peer, "threads": args.threads, "repeats": args.repeats, "unit": "tokens/s"}
        result = {**facts, "cpu": _cpu(), "rows": [asdict(row) for row in rows]}
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _parser(peer: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"candle-vllm and {peer} on the same work, in turns; see README.md in this folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def sizes(text: str) -> list[int]:
        values = [int(part) for part in text.split(",")]
        if min(values) < 0 or (0 in values and len(values) > 1):
            raise argparse.ArgumentTypeError(f"{text} is no list of positive numbers")
        return values

    def several(text: str) -> int:
        if int(text) < 2:
            raise argparse.ArgumentTypeError(f"{text}: a rate of decoding needs a token after the first")
        return int(text)

    parser.add_argument("model", nargs="+", help=".gguf files")
    parser.add_argument("--prompt", type=sizes, default=[512, 2048], metavar="A,B", help="lengths (512,2048); 0: none")
    parser.add_argument(
        "--batch", type=sizes, default=[1, 16, 64], metavar="A,B", help="sequences together (1,16,64); 0: none"
    )
    parser.add_argument("--decode-prompt", type=int, default=64, metavar="N", help="prompt tokens of those (64)")
    parser.add_argument(
        "--decode-tokens", type=several, default=64, metavar="N", help="tokens each of them decodes (64)"
    )
    parser.add_argument(
        "--long", type=int, default=0, metavar="N", help="also a prompt of N tokens and a decode behind it (0: none)"
    )
    parser.add_argument("--long-tokens", type=several, default=16, metavar="N", help="tokens of that decode (16)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="turns that count (5)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="of both (the cores at hand)"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="FILE", help="interpreter that has the peer (this one)"
    )
    parser.add_argument("--peer-preload", metavar="FILE", help="library that the peer's process gets as LD_PRELOAD")
    parser.add_argument("--json", metavar="FILE", help="write the medians and all turns as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _cases(args: argparse.Namespace) -> Iterator[Case]:
    for length in filter(None, args.prompt):
        yield Case(f"prefill {length}", None, [length], 1)
    for batch in filter(None, args.batch):
        yield Case(None, f"decode {batch}", [args.decode_prompt] * batch, args.decode_tokens)
    if args.long:
        yield Case(f"prefill {args.long}", f"decode at {args.long}", [args.long], args.long_tokens)


def _measure(case: Case, model: str, workers: list[_Worker], args: argparse.Namespace) -> Iterator[Row]:
    """The rows of one case: medians of the turns that follow a first one, which warms up."""
    turns: list[list[Turn]] = [[] for _ in workers]
    for turn in range(args.repeats + 1):
        order = list(zip(workers, turns, strict=True))
        for worker, times in order if turn % 2 else reversed(order):
            measured = worker.turn(case, turn)
            if turn:
                times.append(measured)
    if case.prefill:
        yield _row(model, case.prefill, [[sum(case.lengths) / turn.first for turn in times] for times in turns])
    if case.decode:
        made = len(case.lengths) * case.tokens
        rates = [[(made - turn.early) / (turn.whole - turn.first) for turn in times] for times in turns]
        yield _row(model, case.decode, rates)
        if len(case.lengths) > 1:
            rates = [[made / turn.whole for turn in times] for times in turns]
            yield _row(model, f"output {len(case.lengths)}", rates)


def _row(model: str, name: str, rates: list[list[float]]) -> Row:
    ours, peer = (statistics.median(each) for each in rates)
    return Row(model, name, ours, peer, ours / peer, *rates)


class _Worker:
    """A process with one engine: a line of JSON in, a line of JSON out."""

    def __init__(self, name: str, model: str, args: argparse.Namespace) -> None:
        python = sys.executable if name == "candle-vllm" else args.peer_python
        sizes = [f"--{flag}={','.join(map(str, getattr(args, flag)))}" for flag in ("prompt", "batch")]
        flags = ("decode-prompt", "decode-tokens", "long", "long-tokens", "threads")
        counts = [f"--{flag}={vars(args)[flag.replace('-', '_')]}" for flag in flags]
        command = [python, sys.argv[0], model, *sizes, *counts, "--worker", name]
        environment = dict(os.environ)
        if any(PYTHON_SOURCES.glob("candle_vllm/_native.*so")):
            # Built in place; else the installed package is what runs.
            path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(PYTHON_SOURCES)]).strip(os.pathsep)
            environment["PYTHONPATH"] = path
        if args.peer_preload is not None and name != "candle-vllm":
            environment["LD_PRELOAD"] = str(Path(args.peer_preload).resolve(strict=True))
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._ask(None)

    def turn(self, case: Case, seed: int) -> Turn:
        """Run the case on random tokens of this seed."""
        first, whole, early = self._ask({"lengths": case.lengths, "tokens": case.tokens, "seed": seed})
        return Turn(float(first), float(whole), int(early))

    def _ask(self, case: dict[str, Any] | None) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if case is not None:
            self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            # Engines may write lines of their own.
            if line.startswith("DONE"):
                return line.split()[1:]
        raise SystemExit(f"{self._name} has ended with status {self._process.wait()}; what it said is above")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _work(runner: Runner) -> None:
    """Answer cases until the input ends."""
    print("DONE", flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        draw = random.Random(case["seed"])
        prompts = [draw.choices(range(3, runner.vocabulary), k=length) for length in case["lengths"]]
        runner.prepare(case["lengths"], case["tokens"])
        began = time.perf_counter()
        run = runner.together(prompts, case["tokens"])
        early = next(run)
        first = time.perf_counter()
        next(run, None)
        print(f"DONE {first - began} {time.perf_counter() - began} {early}", flush=True)


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
