"""Every flag of the earlier binary: its default, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from candle_vllm.cli import flags, main
from candle_vllm.cli.bench_flags import bench_parser
from candle_vllm.cli.settings import UsageError, engine_config, refuse_flags, sampling_defaults, served_names
from candle_vllm.models import SamplingDefaults

LEGACY_DEFAULTS: dict[str, Any] = {
    "hf_token": None,
    "hf_token_path": None,
    "host": None,
    "port": None,
    "verbose": False,
    "max_num_seqs": 16,
    "block_size": None,
    "model": None,
    "weight_path": None,
    "weight_file": None,
    "dtype": "auto",
    "isq": None,
    "cpu": False,
    "mem": None,
    "kv_fraction": None,
    "mamba_fraction": None,
    "kvcache_mem_cpu": None,
    "record_conversation": False,
    "device_ids": None,
    "holding_time": None,
    "multithread": False,
    "log": False,
    "temperature": None,
    "top_p": None,
    "min_p": None,
    "top_k": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "prefill_chunk_size": None,
    "kvcache_dtype": "auto",
    "fp8_kvcache": False,
    "disable_prefix_cache": False,
    "prefix_cache_max_tokens": None,
    "speculation": "off",
    "disable_cuda_graph": False,
    "ui_server": False,
    "mcp_command": None,
    "mcp_args": None,
    "mcp_config": None,
    "mcp_max_turns": 10,
    "mcp_by_default": False,
    "queue_size": 10,
    "request_timeout": 30.0,
    "enforce_parser": None,
    "reasoning_parser": None,
    "trust_special_tokens": False,
    "yarn_scaling_factor": None,
    "num_nodes": 1,
    "node_rank": 0,
    "master_addr": None,
    "master_port": None,
}


def parsed(*argv: str) -> Any:
    return flags.serve_parser(explicit=False).parse_args(argv)


def config(*argv: str) -> Any:
    args = parsed(*argv)
    refuse_flags(args)
    return engine_config(args)


def test_every_legacy_flag_has_its_default() -> None:
    args = vars(parsed())
    assert {name: args[name] for name in LEGACY_DEFAULTS} == LEGACY_DEFAULTS


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        ([], "model_path", "smollm2"),
        (["--m", "org/name"], "model_path", "org/name"),
        (["--model", "org/name", "--f", "x.gguf"], "weight_file", "x.gguf"),
        (["--cpu"], "device", "cpu"),
        (["--device", "metal"], "device", "metal"),
        (["--d", "1"], "device", "cuda:1"),
        (["--dtype", "f32"], "dtype", "f32"),
        (["--activations", "int16"], "activations", "int16"),
        (["--max-num-seqs", "3"], "max_batch_size", 3),
        (["--max-model-len", "99"], "max_sequence_length", 99),
        (["--mem", "64"], "kv_cache_memory", 64 * 2**20),
        (["--kvcache-mem-cpu", "32"], "kv_cache_memory", 32 * 2**20),
        (["--kvcache-dtype", "f32"], "kv_cache_dtype", "f32"),
        (["--prefill-chunk-size", "1024"], "prefill_chunk_size", 1024),
        (["--prefill-chunk-size", "0"], "enable_chunked_prefill", False),
        (["--disable-prefix-cache"], "enable_prefix_cache", False),
        (["--disable-cuda-graph"], "enable_cuda_graph", False),
        (["--speculation", "ngram"], "speculation", "ngram"),
        (["--threads", "2"], "threads", 2),
        (["--cpu-affinity", "0-1"], "cpu_affinity", (0, 1)),
        (["--hf-token", "hf_abc"], "hf_token", "hf_abc"),
        (["--multithread", "--holding-time", "0", "--num-nodes", "1"], "device", "auto"),
    ],
)
def test_flags_that_set_the_engine(argv: list[str], field: str, value: Any) -> None:
    assert getattr(config(*argv), field) == value


def test_the_token_may_be_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", " hf_secret\n")
    assert config("--hf-token", "MY_TOKEN").hf_token == "hf_secret"


def test_local_weights(tmp_path: Path) -> None:
    file = tmp_path / "tiny-Q4_0.gguf"
    file.touch()
    assert config("--f", str(file)).model_path == str(file)
    assert served_names(parsed("--f", str(file))) == ["tiny-Q4_0", str(file)]
    both = config("--w", str(tmp_path), "--f", file.name)
    assert (both.model_path, both.weight_file) == (str(tmp_path), file.name)
    named = parsed("--m", "my/name", "--w", str(tmp_path))
    assert engine_config(named).model_path == str(tmp_path)
    assert served_names(named) == ["my/name"]
    assert served_names(parsed("--served-model-name", "a", "--served-model-name", "b")) == ["a", "b"]


def test_sampling_flags_become_defaults() -> None:
    args = parsed("--temperature", "0.5", "--top-k", "-1", "--top-p", "0.9", "--presence-penalty", "1")
    assert sampling_defaults(args).named() == {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 1.0, "top_k": None}
    # "All" is said, so that a checkpoint's own limit does not count; silence leaves it to the checkpoint.
    advised = SamplingDefaults(top_k=20, temperature=0.6)
    assert sampling_defaults(args).over(advised).named()["top_k"] is None
    assert sampling_defaults(parsed()).over(advised) == advised


@pytest.mark.parametrize(
    "argv",
    [
        ["--isq", "q9k"],
        ["--yarn-scaling-factor", "2"],
        ["--kv-fraction", "0.7"],
        ["--mamba-fraction", "0.1"],
        ["--fp8-kvcache", "--kvcache-dtype", "int8"],
        ["--prefix-cache-max-tokens", "100"],
        ["--record-conversation"],
        ["--mcp-args", "a,b"],
        ["--mcp-config", "/nowhere/mcp.json"],
        ["--mcp-by-default"],
        ["--mcp-max-turns", "0"],
        ["--holding-time", "500"],
        ["--num-nodes", "2"],
        ["--node-rank", "1"],
        ["--master-addr", "h"],
        ["--master-port", "1"],
        ["--d", "0,1"],
        ["--d", "x"],
        ["--cpu", "--d", "0"],
        ["--mem", "0"],
        ["--mem", "1", "--kvcache-mem-cpu", "2"],
        ["--f", "/nowhere/x.gguf"],
        ["--w", "/nowhere"],
        ["--hf-token", "NO_SUCH_VARIABLE"],
        ["--enforce-parser", "morse"],
        ["--reasoning-parser", "morse"],
        ["--max-num-seqs", "0"],
        ["--kvcache-dtype", "f8"],
        ["--dtype", "int3"],
        ["--prefill-chunk-size", "-1"],
        ["--top-p", "7"],
        ["--temperature", "-1"],
        ["--queue-size", "-1"],
        ["--max-stored-responses", "-1"],
        ["--h", "host:1", "--p", "2"],
        ["--port", "many"],
        ["--nonsense"],
        ["chat", "--ui-server"],
        ["--yarn-scaling-factor", "0"],
        ["--kv-fraction", "0"],
        ["--mamba-fraction", "0"],
        ["--prefix-cache-max-tokens", "0"],
        ["--master-port", "0"],
        ["--num-nodes", "0"],
        ["--threads", "0"],
        ["--max-model-len", "0"],
        ["--kvcache-mem-cpu", "0"],
        ["--device", ""],
        ["--d", ""],
        ["--m", ""],
        ["--served-model-name", ""],
        ["--generation-config", "vllm"],
        ["--chat-template", "/no/such/file"],
        ["serve", "a", "--m", "b"],
        ["list", "--m", "x"],
        ["pull", "--hf-token", "NO_SUCH_VARIABLE"],
        ["complete", "--isq", "q9k", "x"],
    ],
)
def test_what_cannot_be_honoured_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    flag = next(part for part in argv if part.startswith("--"))
    assert flag in said
    assert "error" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--tempratur", "0.5"], "there is no flag --tempratur; did you mean --temperature?"),
        (["serve", "smollm2", "--max-num-seq=3"], "there is no flag --max-num-seq; did you mean --max-num-seqs?"),
        (["bench", "latency", "--repeat", "1"], "there is no flag --repeat; did you mean --repeats?"),
        (["--xyz"], "there is no flag --xyz"),
        (["srve"], "'srve' is one word too many; did you mean serve?"),
        (["chat", "hello", "there"], "'there' is one word too many"),
        (["--p", "many"], "argument --p/--port: invalid int value: 'many'"),
        (["bench", "make-model", "llama-1b", "--quant", "q4_9", "--out", "x"], "'q4_9' is none of"),
        (["--top-p", "7"], "--top-p must be a number above 0 and at most 1; got 7.0"),
    ],
)
def test_a_mistake_costs_two_lines(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert said in lines[0]
    assert lines[1].endswith("--help shows what there is")
    assert len(lines) == 2


def test_words_and_flags_in_any_order() -> None:
    serve = flags.serve_parser(explicit=True)
    for argv in (["a/b", "--p", "1"], ["--p", "1", "a/b"], ["--p", "1", "-m", "a/b"], ["-m", "a/b", "a/b"]):
        assert engine_config(serve.parse(argv)).model_path == "a/b"
    run = flags.chat_parser("run").parse(["--seed", "3", "a/b", "hello", "--top-k", "4"])
    assert (engine_config(run).model_path, run.message, run.seed, run.top_k) == ("a/b", "hello", 3, 4)
    assert flags.chat_parser().parse(["hello", "-m", "a/b"]).message == "hello"
    assert flags.complete_parser().parse(["--echo", "-"]).prompt == "-"
    assert flags.complete_parser().parse(["--echo", "--", "--text"]).prompt == "--text"
    assert serve.parse(["--served-model-name", "a", "b", "--p", "1"]).served_model_name == ["a", "b"]


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--dtype", "F32"], "dtype", "f32"),
        (["--kvcache-dtype", "BF16"], "kv_cache_dtype", "bf16"),
        (["--kvcache-dtype", "int8"], "kv_cache_dtype", "int8"),
        (["--kvcache-dtype", "fp8_e4m3"], "kv_cache_dtype", "fp8"),
        (["--fp8-kvcache"], "kv_cache_dtype", "fp8"),
        (["--generation-config", "None"], "generation_config", "none"),
        ([], "generation_config", "auto"),
    ],
)
def test_names_of_types_in_any_case(argv: list[str], field: str, value: str) -> None:
    assert getattr(config(*argv), field) == value


def test_quantisations_in_any_case() -> None:
    args = bench_parser().parse(["make-model", "LLAMA-1B", "--quant", "q4_0", "--out", "x"])
    assert (args.shape, args.quant) == ("llama-1b", "Q4_0")


def test_a_chat_template_is_compiled_first(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jinja", tmp_path / "bad.jinja"
    good.write_text("{{ messages }}", encoding="utf-8")
    bad.write_text("{% if %}", encoding="utf-8")
    assert config("--chat-template", str(good)).chat_template == str(good)
    with pytest.raises(UsageError, match="--chat-template .*bad.jinja"):
        config("--chat-template", str(bad))


def test_refusals_carry_reasons() -> None:
    with pytest.raises(UsageError, match="set rope_scaling"):
        config("--yarn-scaling-factor", "2")


@pytest.mark.parametrize(("given", "kept"), [("q4k", "q4_k"), ("Q4_K", "q4_k"), ("q8_0", "q8_0"), ("q2k", "q2_k")])
def test_types_to_quantise_to(given: str, kept: str) -> None:
    assert config("--isq", given).isq == kept


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--kvcache-dtype" in capsys.readouterr().out
    assert main(["-h"]) == 0
    assert "did you mean" not in capsys.readouterr().err
    for command in flags.SUBCOMMANDS:
        assert main([command, "--help"]) == 0
        assert f"candle-vllm {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("candle-vllm")
