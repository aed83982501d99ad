"""The flags of each subcommand: names, defaults, help. What becomes of them is decided in settings.py.

The one-word flags (--m, --w, --h ...) are those of the earlier candle-vllm binary; modern spellings stand beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from candle_vllm.cli.guard import add_guard
from candle_vllm.cli.mcp import add_mcp
from candle_vllm.cli.parser import Parser, one_of

SUBCOMMANDS = (
    "serve",
    "run",
    "chat",
    "complete",
    "inspect",
    "fits",
    "pull",
    "list",
    "rm",
    "quantize",
    "bench",
    "mcp-serve",
    "run-batch",
)

_EPILOG = """subcommands:
  serve      serve OpenAI's API over HTTP (also what runs without a subcommand)
  run        talk to a model in the terminal, or feed it lines on standard input
  chat       the same, with the model behind --m
  complete   continue a text
  inspect    show what a model is, what it needs and what of it is not supported
  fits       tell whether a model runs on this machine
  pull       fetch a model
  list       show the models that are here
  rm         delete one
  quantize   write a model as a smaller GGUF file
  bench      measure an engine or a server
  mcp-serve  offer a model to other agents, as an MCP server
  run-batch  answer a file of requests

examples:
  candle-vllm                                  serve the small default model on port 2000
  candle-vllm serve Qwen/Qwen3-0.6B --p 8000   serve a model from Hugging Face
  candle-vllm serve ./model-Q4_K_M.gguf        serve a local file
  candle-vllm run smollm2                      talk to the small default model
"""


def serve_parser(explicit: bool) -> Parser:
    """The flags of serve; ``explicit`` when the subcommand was written out."""
    name = "candle-vllm serve" if explicit else "candle-vllm"
    text = "Serve a language model over OpenAI's HTTP API."
    parser = Parser(name, description=text, epilog=None if explicit else _EPILOG)
    if explicit:
        _add_named_model(parser)
    else:
        parser.words = SUBCOMMANDS
        parser.add_argument("--version", action="store_true", help="print the version and exit")
    _add_model(parser)
    _add_engine(parser)
    _add_sampling(parser)
    _add_server(parser)
    add_mcp(parser)
    add_guard(parser)
    parser.add_argument(
        "--replicas", type=int, metavar="N", help="engines behind the one address, by Ray (one, in this process)"
    )
    _add_other_machines(parser)
    return parser


def chat_parser(name: str = "chat") -> Parser:
    """The flags of chat and of run, which takes the model as its first word."""
    parser = Parser(
        f"candle-vllm {name}",
        description="Talk to a model. In a terminal: type, read, type on; /help shows the commands. "
        "Without one: each line of standard input is a turn of the conversation, answers go to standard output.",
    )
    if name == "run":
        _add_named_model(parser)
    parser.add_argument("message", nargs="?", help="answer this and exit")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    _add_generation(parser, max_tokens=None)
    _add_model(parser)
    _add_engine(parser)
    _add_sampling(parser)
    _add_other_machines(parser)
    return parser


def pull_parser() -> Parser:
    """The flags of pull."""
    parser = Parser("candle-vllm pull", description="Fetch a model, or what is missing of it, and say where it is.")
    _add_named_model(parser)
    _add_source(parser.add_argument_group("model"))
    return parser


def inspect_parser(name: str) -> Parser:
    """The flags of inspect and fits."""
    what = {
        "inspect": "Show what a model is: architecture, sizes, types of weights, tokenizer, template, the memory that "
        "it needs, and what of it is not supported. Ends with status 1 where it would not load.",
        "fits": "Tell whether a model runs on this machine: status 0 where it loads and one sequence has room, else 1.",
    }
    parser = Parser(f"candle-vllm {name}", description=what[name])
    _add_named_model(parser)
    add_model_and_engine(parser)
    if name == "inspect":
        parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    return parser


def list_parser() -> Parser:
    """The flags of list: none."""
    return Parser("candle-vllm list", description="Show the models that were fetched, and the room they take.")


def rm_parser() -> Parser:
    """The flags of rm."""
    parser = Parser("candle-vllm rm", description="Delete fetched models, as list names them.")
    parser.add_argument("names", nargs="+", metavar="MODEL", help="Hugging Face id or alias")
    return parser


def quantize_parser() -> Parser:
    """The flags of quantize."""
    parser = Parser(
        "candle-vllm quantize",
        description="Write a model as one GGUF file, which llama.cpp loads too. Matrices become what --isq would make "
        "of them while loading; from GGUF all else stays as it is.",
    )
    parser.add_argument("model", metavar="IN", help="GGUF file, local folder, Hugging Face id or alias")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument(
        "--type",
        type=str.lower,
        required=True,
        metavar="TYPE",
        help="q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k; or bf16, f16, f32",
    )
    parser.add_argument("--f", "--weight-file", dest="weight_file", metavar="FILE", help="one of several .gguf files")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a Hugging Face repository")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that encode (the cores at hand)")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    return parser


def mcp_serve_parser() -> Parser:
    """The flags of mcp-serve."""
    parser = Parser(
        "candle-vllm mcp-serve",
        description="Offer a model to other agents as an MCP server with the tools generate and chat. Over standard "
        "input and output it is started by the agent; over HTTP it is at /mcp.",
    )
    _add_named_model(parser)
    parser.add_argument(
        "--transport",
        choices=("stdio", "http"),
        default="stdio",
        help="how agents reach it; http is streamable HTTP (stdio)",
    )
    _add_model(parser)
    _add_engine(parser)
    _add_sampling(parser)
    group = parser.add_argument_group("server")
    _add_address(group, "127.0.0.1")
    _add_names_and_queues(group)
    _add_notation(group)
    add_guard(parser)
    _add_other_machines(parser)
    return parser


def run_batch_parser() -> Parser:
    """The flags of run-batch."""
    parser = Parser(
        "candle-vllm run-batch",
        description="Answer a file of requests in OpenAI's batch format. The output gets a line for each as it is "
        "answered; its id tells the input's line. Interrupted, the same command goes on where it was.",
        epilog="exit status: 0 all answered, 1 failed, 2 wrong usage, 3 all answered but some with an error, "
        "130 interrupted",
    )
    _add_named_model(parser)
    parser.add_argument("-i", "--input", required=True, metavar="FILE", help="lines of custom_id, method, url, body")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="made, or gone on with")
    parser.add_argument("--at-once", type=int, metavar="N", help="lines under way (twice --max-num-seqs)")
    parser.add_argument(
        "--window", type=int, default=1024, metavar="N", help="lines read ahead and ordered by their prompts (1024)"
    )
    parser.add_argument(
        "--ray", action="store_true", help="spread it over replicas by Ray, on the cluster if there is one"
    )
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="engines that --ray starts (1)")
    parser.add_argument(
        "--served-model-name",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="names that requests use, the main one first",
    )
    _add_model(parser)
    _add_engine(parser)
    _add_sampling(parser)
    _add_notation(parser.add_argument_group("notation"))
    _add_other_machines(parser)
    return parser


def complete_parser() -> Parser:
    """The flags of complete."""
    text = "Continue a text. The continuation is written as it is generated."
    parser = Parser("candle-vllm complete", description=text)
    parser.add_argument("prompt", nargs="?", default="-", help="the text; - or nothing reads standard input")
    parser.add_argument("--echo", action="store_true", help="write the prompt first")
    _add_generation(parser, max_tokens=256)
    _add_model(parser)
    _add_engine(parser)
    _add_sampling(parser)
    _add_other_machines(parser)
    return parser


def add_model_and_engine(parser: argparse.ArgumentParser) -> None:
    """The flags that load a model."""
    _add_model(parser)
    _add_engine(parser)


def _add_generation(parser: argparse.ArgumentParser, max_tokens: int | None) -> None:
    shown = "as the context allows" if max_tokens is None else str(max_tokens)
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N", help=f"of an answer at most ({shown})"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="ends an answer; may be given several times")


def _add_named_model(parser: argparse.ArgumentParser) -> None:
    text = "as --m has it; smollm2, the small default, unless given"
    parser.add_argument("named_model", nargs="?", metavar="MODEL", help=text)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    _add_source(group)
    group.add_argument("--dtype", type=str.lower, default="auto", help="auto (fast), f32 (exact), bf16, f16")
    group.add_argument(
        "--activations",
        type=str.lower,
        default="auto",
        help="bits of activations beside quantised weights: auto (fast), int8, int16",
    )
    group.add_argument(
        "--isq",
        type=str.lower,
        metavar="TYPE",
        help="quantise while loading what is kept wider: q4_0, q4_1, q5_0, q5_1, q8_0, q2k, q3k, q4k, q5k, q6k",
    )
    group.add_argument("--yarn-scaling-factor", type=float, metavar="X", help="stretch the context by YaRN")
    group.add_argument("--chat-template", metavar="FILE", help="Jinja template in place of the model's own")


def _add_source(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-m",
        "--m",
        "--model",
        "--model-id",
        dest="model",
        metavar="MODEL",
        help="Hugging Face id, local folder, .gguf file or alias (smollm2, the small default)",
    )
    group.add_argument("--w", "--weight-path", dest="weight_path", metavar="FOLDER", help="local folder of the model")
    group.add_argument(
        "--f",
        "--weight-file",
        dest="weight_file",
        metavar="FILE",
        help=".gguf file: a local path, or a name within --m or --w",
    )
    group.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a Hugging Face repository")
    group.add_argument(
        "--hf-token", metavar="NAME", help="environment variable that holds the token, or the token itself"
    )
    group.add_argument("--hf-token-path", metavar="FILE", help="file that holds the Hugging Face token")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument("--max-num-seqs", type=int, default=16, metavar="N", help="sequences that run at once (16)")
    group.add_argument("--max-model-len", type=int, metavar="N", help="longest sequence in tokens (the model's own)")
    group.add_argument("--block-size", type=int, metavar="N", help="tokens of a KV block (the engine's own)")
    group.add_argument("--cpu", action="store_true", help="run on the CPU")
    group.add_argument("--device", metavar="NAME", help="auto, cpu, cuda:N or metal")
    group.add_argument("--d", dest="device_ids", metavar="0,1", help="GPUs to use, by number")
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (the cores at hand)")
    group.add_argument("--cpu-affinity", metavar="0-3,8", help="cores that the compute threads are bound to (any)")
    group.add_argument("--multithread", action="store_true", help="one process with threads; always so here")
    group.add_argument("--mem", type=int, metavar="MB", help="memory of the KV cache (sized by itself)")
    group.add_argument("--kvcache-mem-cpu", type=int, metavar="MB", help="the same, where the cache is on the CPU")
    group.add_argument("--kv-fraction", type=float, metavar="X", help="share of GPU memory for the KV cache")
    group.add_argument("--mamba-fraction", type=float, metavar="X", help="share of it for Mamba states")
    group.add_argument(
        "--kvcache-dtype", type=str.lower, default="auto", metavar="TYPE", help="auto, f32, f16, bf16, int8, fp8"
    )
    group.add_argument("--fp8-kvcache", action="store_true", help="the same as --kvcache-dtype fp8")
    group.add_argument(
        "--prefill-chunk-size", type=int, metavar="N", help="tokens of one step at most (512); 0 = prompts in one piece"
    )
    group.add_argument("--disable-prefix-cache", action="store_true", help="compute every prompt from its start")
    group.add_argument("--prefix-cache-max-tokens", type=int, metavar="N", help="limit of the prefix cache")
    group.add_argument(
        "--speculation",
        default="off",
        choices=("off", "ngram"),
        help="ngram: draft from the text's own repetitions; answers stay the same (off)",
    )
    group.add_argument("--disable-cuda-graph", action="store_true", help="run without CUDA graphs")
    group.add_argument("--holding-time", type=int, metavar="MS", help="wait for more requests before a step")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling, where a request says nothing")
    group.add_argument("--temperature", type=float, metavar="X")
    group.add_argument("--top-p", type=float, metavar="X")
    group.add_argument("--min-p", type=float, metavar="X")
    group.add_argument("--top-k", type=int, metavar="N")
    group.add_argument("--frequency-penalty", type=float, metavar="X")
    group.add_argument("--presence-penalty", type=float, metavar="X")
    group.add_argument("--repetition-penalty", type=float, metavar="X")
    group.add_argument(
        "--generation-config",
        type=one_of(("auto", "none")),
        default="auto",
        metavar="SOURCE",
        help="where these say nothing either: auto = as the checkpoint recommends, none = the API's defaults (auto)",
    )


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    _add_address(group, "0.0.0.0")
    _add_names_and_queues(group)
    group.add_argument(
        "--request-timeout", type=float, default=30.0, metavar="S", help="seconds that one without a stream may (30)"
    )
    group.add_argument(
        "--max-stored-responses", type=int, default=1000, metavar="N", help="responses to go on from; 0: none (1000)"
    )
    group.add_argument(
        "--max-stored-bytes", type=int, default=64 << 20, metavar="N", help="bytes of memory for them (67108864)"
    )
    group.add_argument(
        "--shutdown-timeout", type=float, default=5.0, metavar="S", help="seconds for running answers to end (5)"
    )
    group.add_argument("--verbose", action="store_true", help="the same as --log-level debug")
    group.add_argument("--log", action="store_true", help="log also to candle-vllm.log in this folder")
    group.add_argument("--record-conversation", action="store_true", help="keep conversations on the server")
    group.add_argument("--ui-server", action="store_true", help="serve a web page to chat on")
    _add_notation(group)
    group.add_argument(
        "--unknown-fields",
        choices=("refuse", "warn"),
        default="refuse",
        help="of requests: a 400, or left aside and named in the reply's warnings (refuse)",
    )


def _add_address(group: argparse._ArgumentGroup, host: str) -> None:
    group.add_argument(
        "--h",
        "--host",
        dest="host",
        metavar="ADDRESS",
        help=f"host, host:port, [ipv6]:port, tcp://..., or unix:///path ({host})",
    )
    group.add_argument("--p", "--port", dest="port", type=int, metavar="N", help="port (2000)")


def _add_names_and_queues(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--served-model-name",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="names that requests use, the main one first",
    )
    group.add_argument(
        "--queue-size", type=int, default=10, metavar="N", help="requests that may wait for a model to load (10)"
    )
    group.add_argument(
        "--max-waiting", type=int, default=1024, metavar="N", help="answers that may wait for a place (1024)"
    )
    group.add_argument(
        "--max-waiting-tokens", type=int, default=2**20, metavar="N", help="tokens of their prompts (1048576)"
    )


def _add_notation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--enforce-parser", metavar="NAME", help="how the model writes tool calls (from its template)")
    group.add_argument("--reasoning-parser", metavar="NAME", help="how it marks its thinking (from its template)")
    group.add_argument(
        "--trust-special-tokens",
        action="store_true",
        help="take special tokens that users spell out for control tokens",
    )


def _add_other_machines(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several machines")
    group.add_argument("--num-nodes", type=int, default=1, metavar="N")
    group.add_argument("--node-rank", type=int, default=0, metavar="N")
    group.add_argument("--master-addr", metavar="HOST")
    group.add_argument("--master-port", type=int, metavar="N")
