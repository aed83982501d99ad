"""The flags of candle-vllm bench and its parts. What they do stands in bench.py."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from candle_vllm.bench.shapes import QUANTS, SHAPES
from candle_vllm.cli.flags import add_model_and_engine
from candle_vllm.cli.parser import Parser, one_of

_EXAMPLES = """examples:
  candle-vllm bench latency --m smollm2
  candle-vllm bench throughput --m smollm2 --requests 64 --json result.json
  candle-vllm bench serve --url http://127.0.0.1:2000 --concurrency 16
  candle-vllm bench costs --m smollm2 --json costs.json
  candle-vllm bench simulate --costs costs.json --request-rate 20 --ttft-ms 1000 --itl-ms 60
  candle-vllm bench make-model qwen3-0.6b --quant Q4_0 --out /tmp/qwen3.gguf
"""


def bench_parser() -> Parser:
    """The flags of bench."""
    parser = Parser(
        "candle-vllm bench",
        description="Measure an engine in this process or a server, or write a random model to measure with.",
        epilog=_EXAMPLES,
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)

    def part(name: str, text: str) -> argparse.ArgumentParser:
        return parts.add_parser(name, help=text, description=text)

    _latency(part("latency", "Prefill and decode rates by prompt length and batch; the prefix cache is off."))
    _throughput(part("throughput", "Requests and tokens per second of a pile of requests handed over at once."))
    _serve(part("serve", "Load on an OpenAI-compatible server, with streamed answers."))
    _costs(part("costs", "What a step of this engine takes, by what it holds: a table to simulate with."))
    _simulate(part("simulate", "How many replicas a load needs, and how it would fare: no model is loaded."))
    _replay(part("replay", "The load of simulate on a real engine, to compare with."))
    _make_model(part("make-model", "Write a GGUF file of a known shape with random weights."))
    return parser


def _latency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt", type=_counts, default=[128, 512, 2048], metavar="A,B", help="prompt lengths (128,512,2048); 0: none"
    )
    parser.add_argument(
        "--batch", type=_counts, default=[1, 16, 64], metavar="A,B", help="sequences at once (1,16,64); 0: none"
    )
    parser.add_argument(
        "--decode-prompt", type=_whole(2, 10**6), default=64, metavar="N", help="prompt tokens of those (64)"
    )
    parser.add_argument(
        "--decode-tokens", type=_whole(2, 10**6), default=64, metavar="N", help="tokens each of them decodes (64)"
    )
    parser.add_argument("--repeats", type=_whole(1, 1000), default=3, metavar="N", help="medians of so many (3)")
    _json(parser)
    add_model_and_engine(parser)


def _throughput(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=_whole(1, 10**6), default=64, metavar="N", help="requests (64)")
    _lengths(parser, variation=0.0)
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, metavar="N", help="of lengths and prompts (0)")
    _json(parser)
    add_model_and_engine(parser)


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", type=_url, required=True, help="of the server, as in http://127.0.0.1:2000")
    parser.add_argument("--model", metavar="NAME", help="model to ask for (the first that the server lists)")
    parser.add_argument("--endpoint", choices=("chat", "completions"), default="chat", help="what to call (chat)")
    parser.add_argument("--requests", type=_whole(1, 10**6), default=100, metavar="N", help="requests (100)")
    parser.add_argument("--duration", type=_number(0.1, 1e6), metavar="S", help="send for so long, not --requests many")
    parser.add_argument(
        "--drop", type=_number(0.0, 1.0), default=0.0, metavar="X", help="share of clients that leave midway (0)"
    )
    parser.add_argument(
        "--concurrency", type=_whole(1, 10_000), metavar="N", help="requests at once (16; 1000 with --request-rate)"
    )
    parser.add_argument(
        "--request-rate",
        type=_number(1e-6, 1e6),
        metavar="X",
        help="requests per second, arriving at random (Poisson); --concurrency still limits them",
    )
    parser.add_argument("--input-words", type=_whole(1, 10**6), default=64, metavar="N", help="of a prompt (64)")
    parser.add_argument("--output-tokens", type=_whole(1, 10**6), default=64, metavar="N", help="max_tokens (64)")
    parser.add_argument("--ignore-eos", action="store_true", help="send ignore_eos, which vLLM and candle-vllm know")
    parser.add_argument("--extra-body", type=_object, default={}, metavar="JSON", help="further fields of a request")
    parser.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable with the key (OPENAI_API_KEY)"
    )
    parser.add_argument("--timeout", type=_number(0.001, 86_400), default=300.0, metavar="S", help="of a request (300)")
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, metavar="N", help="of prompts and arrivals (0)")
    parser.add_argument("--slo-ttft-ms", type=_number(0.0, 1e9), metavar="X", help="goodput: first text within this")
    parser.add_argument(
        "--slo-itl-ms", type=_number(0.0, 1e9), metavar="X", help="goodput: a token within this, on a request's average"
    )
    _json(parser)


def _costs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=_whole(1, 1000), default=3, metavar="N", help="medians of so many (3)")
    _clock(parser)
    _json(parser)
    add_model_and_engine(parser)


def _simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--costs", required=True, metavar="FILE", help="that bench costs --json wrote")
    _demand(parser, requests=2000)
    parser.add_argument(
        "--max-num-seqs", type=_counts, default=[], metavar="A,B", help="sequences at once (as it was measured)"
    )
    parser.add_argument(
        "--replicas", type=_whole(1, 1000), metavar="N", help="so many (as few as meet the targets; 1 without any)"
    )
    parser.add_argument("--most-replicas", type=_whole(1, 1000), default=64, metavar="N", help="to look at (64)")
    parser.add_argument("--cached-tokens", type=_whole(0, 10**6), default=0, metavar="N", help="common to all prompts")
    parser.add_argument("--ttft-ms", type=_number(0.0, 1e9), metavar="X", help="target: the first token within this")
    parser.add_argument("--itl-ms", type=_number(0.0, 1e9), metavar="X", help="target: the next token within this")
    parser.add_argument(
        "--percentile", type=_number(0.0, 100.0), default=99.0, metavar="P", help="of requests and tokens (99)"
    )
    _json(parser)


def _replay(parser: argparse.ArgumentParser) -> None:
    _demand(parser, requests=100)
    _clock(parser)
    _json(parser)
    add_model_and_engine(parser)


def _clock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="process: the time that this process is given, for a machine that is busy; needs --threads 1 (wall)",
    )


def _lengths(parser: argparse.ArgumentParser, variation: float) -> None:
    parser.add_argument("--input-tokens", type=_whole(1, 10**6), default=128, metavar="N", help="of a prompt (128)")
    parser.add_argument("--output-tokens", type=_whole(1, 10**6), default=64, metavar="N", help="of an answer (64)")
    parser.add_argument(
        "--variation",
        type=_number(0.0, 0.99),
        default=variation,
        metavar="X",
        help=f"0.5: lengths are drawn evenly from half to one and a half of these ({variation:g})",
    )


def _demand(parser: argparse.ArgumentParser, requests: int) -> None:
    parser.add_argument(
        "--request-rate", type=_number(1e-6, 1e6), required=True, metavar="X", help="a second, at random (Poisson)"
    )
    parser.add_argument(
        "--requests", type=_whole(2, 10**6), default=requests, metavar="N", help=f"requests ({requests})"
    )
    _lengths(parser, variation=0.5)
    parser.add_argument(
        "--lengths", type=Path, metavar="FILE", help="in their place: lines of JSON with input_tokens, output_tokens"
    )
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, metavar="N", help="of arrivals and lengths (0)")


def _make_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shape", metavar="SHAPE", type=one_of(SHAPES), help=", ".join(SHAPES))
    parser.add_argument("--quant", required=True, metavar="TYPE", type=one_of(QUANTS), help=", ".join(QUANTS))
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.gguf", help="file to write")
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, metavar="N", help="the same seed: the same file")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    _json(parser)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - is standard output")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() else -1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return value

    return read


def _counts(text: str) -> list[int]:
    """Whole numbers with commas between; a single 0 is an empty list."""
    values = [_whole(0, 10**6)(part.strip()) for part in text.split(",")]
    if values == [0]:
        return []
    if 0 in values:
        raise argparse.ArgumentTypeError(f"{text!r} has a 0")
    return list(dict.fromkeys(values))


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return read


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2]:
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https:// and a host")
    return text


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value
