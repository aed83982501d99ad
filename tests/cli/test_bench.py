"""candle-vllm bench: each part small, over a random model made by itself and over servers in this process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import GenerationParams, InferenceEngine
from candle_vllm.bench import vocabulary
from candle_vllm.bench.blocks import TYPES
from candle_vllm.bench.figures import percentile, spread
from candle_vllm.bench.make_model import make_model
from candle_vllm.bench.shapes import QUANTS, SHAPES, tensors
from candle_vllm.cli import main
from candle_vllm.server import create_app
from fake_engine import FakeEngine
from live_server import LiveServer


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny shape in Q4_K_M."""
    out = tmp_path_factory.mktemp("random") / "tiny.gguf"
    make_model("tiny", "Q4_K_M", out, seed=1)
    return out


def result(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 0) -> dict[str, Any]:
    """What ``bench ... --json -`` writes."""
    got = main(["bench", *argv, "--json", "-"])
    said = capsys.readouterr()
    assert got == status, said.err
    read: dict[str, Any] = json.loads(said.out)
    return read


def ordered(times: dict[str, float]) -> bool:
    """Whether percentiles ascend and time has passed. (One slow step lifts the mean above all of them.)"""
    return 0 <= times["median"] <= times["p90"] <= times["p99"] and times["mean"] > 0


def test_latency(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    found = result(
        capsys, "latency", "--f", str(random_model), "--threads", "1", "--prompt", "40,8", "--batch", "1,3",
        "--decode-prompt", "8", "--decode-tokens", "6", "--repeats", "2",
    )  # fmt: skip
    assert found["model"]["name"] == "tiny.gguf"
    assert found["model"]["threads"] == 1
    assert [rate["prompt_tokens"] for rate in found["prefill"]] == [40, 8]
    for rate in found["prefill"]:
        assert rate["tokens_per_second"] == pytest.approx(rate["prompt_tokens"] / rate["seconds"])
        assert rate["repeats"] == 2
    assert [rate["batch"] for rate in found["decode"]] == [1, 3]
    for rate in found["decode"]:
        assert (rate["prompt_tokens"], rate["output_tokens"], rate["repeats"]) == (8, 6, 2)
        # The first token of each comes with its prompt, so five steps only decode.
        assert rate["steps"] == 5
        assert rate["tokens_per_second"] > 0
        assert rate["step_milliseconds"] > 0
        assert rate["overall_tokens_per_second"] > 0


def test_prompts_of_a_batch_that_take_many_steps(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    # 12 prompts of 20 tokens in steps of 16: the first decodes long before the last prompt is read.
    argv = ["latency", "--f", str(random_model), "--threads", "1", "--prompt", "0", "--batch", "12", "--repeats", "1"]
    argv += ["--decode-prompt", "20", "--decode-tokens", "3", "--prefill-chunk-size"]
    for chunk in ("16", "0"):
        [rate] = result(capsys, *argv, chunk)["decode"]
        assert (rate["batch"], rate["prompt_tokens"], rate["steps"]) == (12, 20, 2), chunk
        assert rate["output_tokens"] >= 3
    assert rate["output_tokens"] == 3


def test_a_cache_too_small_for_the_batch(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    argv = ["bench", "latency", "--f", str(random_model), "--prompt", "0", "--decode-prompt", "600", "--repeats", "1"]
    assert main([*argv, "--batch", "8", "--mem", "4"]) == 2
    said = capsys.readouterr().err
    assert "--batch must be" in said and "got 8" in said
    needed = said.partition("(--mem ")[2].partition(")")[0]
    assert main([*argv, "--batch", "8", "--mem", needed, "--decode-tokens", "2"]) == 0


def test_parts_of_latency(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    found = result(capsys, "latency", "--f", str(random_model), "--prompt", "8", "--batch", "0", "--repeats", "1")
    assert found["decode"] == []
    assert len(found["prefill"]) == 1


def test_throughput(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    argv = ("throughput", "--f", str(random_model), "--requests", "6", "--input-tokens", "10", "--output-tokens", "4")
    found = result(capsys, *argv)
    assert (found["requests"], found["failed"], found["input_tokens"], found["output_tokens"]) == (6, 0, 60, 24)
    assert found["requests_per_second"] == pytest.approx(6 / found["seconds"])
    assert found["output_tokens_per_second"] == pytest.approx(24 / found["seconds"])
    assert found["total_tokens_per_second"] == pytest.approx(84 / found["seconds"])


def test_throughput_varies_with_its_seed(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    argv = (
        "throughput", "--f", str(random_model), "--requests", "5", "--input-tokens", "20", "--output-tokens", "8",
        "--variation", "0.5",
    )  # fmt: skip
    found = [result(capsys, *argv, "--seed", seed) for seed in ("3", "3", "4")]
    sizes = [(each["input_tokens"], each["output_tokens"]) for each in found]
    assert sizes[0] == sizes[1] != sizes[2]
    assert all(50 <= inputs <= 150 and 20 <= outputs <= 60 for inputs, outputs in sizes)


def test_costs_a_simulation_and_the_same_load_as_it_happens(
    capsys: pytest.CaptureFixture[str], random_model: Path, tmp_path: Path
) -> None:
    costs, lengths = tmp_path / "costs.json", tmp_path / "lengths.jsonl"
    engine = ("--f", str(random_model), "--threads", "1", "--max-num-seqs", "4")
    assert main(["bench", "costs", *engine, "--repeats", "1", "--json", str(costs)]) == 0
    assert "of a prompt" in capsys.readouterr().out
    lengths.write_text('{"input_tokens": 9, "output_tokens": 5}\n{"input_tokens": 40, "output_tokens": 7}\n')
    load = ("--request-rate", "40", "--requests", "30", "--lengths", str(lengths))
    simulate = ("simulate", "--costs", str(costs), *load)
    found = result(capsys, *simulate, "--max-num-seqs", "1,4", "--ttft-ms", "1e6", "--percentile", "90")
    assert [(one["max_batch_size"], one["replicas"], one["met"]) for one in found["outlooks"]] == [
        (1, 1, True),
        (4, 1, True),
    ]
    assert all(ordered(one["ttft_ms"]) and ordered(one["itl_ms"]) for one in found["outlooks"])
    assert result(capsys, *simulate, "--replicas", "3")["outlooks"][0]["replicas"] == 3
    result(capsys, *simulate, "--itl-ms", "0", "--most-replicas", "2", status=1)
    happened = result(capsys, "replay", *engine, *load)
    by_steps = result(capsys, "replay", *engine, *load, "--clock", "process")
    # All 30 requests of each, and as many tokens.
    for one in (happened, by_steps, found["outlooks"][1]):
        assert ordered(one["ttft_ms"])
        assert one["output_tokens_per_second"] / one["requests_per_second"] == pytest.approx(
            happened["output_tokens_per_second"] / happened["requests_per_second"]
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("{}", "no file of bench costs"),
        ("[]", "no file of bench costs"),
    ],
)
def test_costs_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    assert main(["bench", "simulate", "--costs", str(tmp_path / "costs.json"), "--request-rate", "1"]) == 2
    assert said in capsys.readouterr().err


def test_tables_and_a_json_file(capsys: pytest.CaptureFixture[str], random_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    argv = ["bench", "throughput", "--f", str(random_model), "--requests", "2", "--output-tokens", "2"]
    assert main([*argv, "--json", str(out)]) == 0
    said = capsys.readouterr()
    assert "output tokens/s" in said.out
    assert "tiny.gguf" in said.out
    assert said.err == ""
    assert json.loads(out.read_text(encoding="utf-8"))["output_tokens"] == 4


class Server:
    """A stand-in for an OpenAI-compatible server: raw HTTP, one connection a request, answers as the test wants."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.running = self.most = 0
        self.pieces: list[Any] = [{"choices": [{"delta": {"content": "a"}}]} for _ in range(3)]
        self.usage: dict[str, int] | None = {"prompt_tokens": 5, "completion_tokens": 3}
        self.pause = 0.002
        self.fail_every = 0
        self.done = True
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            length = next((int(x[15:]) for x in head.splitlines() if x.lower().startswith("content-length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            await self.answer(path, body, writer)
        finally:
            writer.close()

    async def answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            self.write(writer, 200, json.dumps({"data": [{"id": "first"}, {"id": "second"}]}))
            return
        self.bodies.append((path, body))
        if self.fail_every and len(self.bodies) % self.fail_every == 0:
            self.write(writer, 503, '{"error": {"message": "busy"}}')
            return
        self.running += 1
        self.most = max(self.most, self.running)
        self.write(writer, 200, "")
        for piece in self.pieces:
            await asyncio.sleep(self.pause)
            writer.write(b"data: " + json.dumps(piece).encode() + b"\n\n")
        if self.usage is not None:
            writer.write(b"data: " + json.dumps({"choices": [], "usage": self.usage}).encode() + b"\n\n")
        writer.write(b"data: [DONE]\n\n" if self.done else b"")
        await writer.drain()
        self.running -= 1

    @staticmethod
    def write(writer: asyncio.StreamWriter, status: int, text: str) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n{text}".encode())


@pytest.fixture
def server() -> Iterator[Server]:
    """A stand-in under its url, in a thread."""
    import threading

    made, loop, ready = Server(), asyncio.new_event_loop(), threading.Event()

    async def listen() -> None:
        listening = await asyncio.start_server(made, "127.0.0.1", 0)
        made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ready.set()
        async with listening:
            await stop.wait()
        # Answers whose client has left.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0.01)

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(listen()))
    thread.start()
    assert ready.wait(10)
    yield made
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def test_load(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    found = result(capsys, "serve", "--url", server.url, "--requests", "12", "--concurrency", "3", "--ignore-eos")
    assert (found["requests"], found["completed"], found["failed"], found["errors"]) == (12, 12, 0, {})
    assert (found["model"], found["endpoint"], found["concurrency"]) == ("first", "chat", 3)
    assert (found["input_tokens"], found["output_tokens"], found["tokens_counted_by_server"]) == (60, 36, True)
    assert found["requests_per_second"] == pytest.approx(12 / found["seconds"])
    assert found["output_tokens_per_second"] == pytest.approx(36 / found["seconds"])
    assert server.most == 3
    for key in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        assert ordered(found[key]), key
    assert found["ttft_ms"]["median"] >= 2
    assert found["ttft_ms"]["p99"] <= found["e2e_ms"]["p99"]
    assert found["goodput"] is None
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions"
    assert body["stream"] is True
    assert body["ignore_eos"] is True
    assert body["max_tokens"] == 64
    assert len(body["messages"][0]["content"].split()) == 64


def test_load_of_completions_at_a_rate(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    server.pieces = [{"choices": [{"text": "a"}]}, {"choices": [{"text": ""}]}, {"choices": [{"text": "b"}]}]
    server.usage = None
    found = result(
        capsys, "serve", "--url", server.url + "/v1/", "--endpoint", "completions", "--requests", "20", "--model", "m",
        "--request-rate", "200", "--extra-body", '{"top_p": 0.5}', "--input-words", "3", "--seed", "5",
        "--slo-ttft-ms", "60000", "--slo-itl-ms", "60000",
    )  # fmt: skip
    assert (found["completed"], found["model"], found["request_rate"]) == (20, "m", 200.0)
    # Without the server's count, pieces that hold text are counted.
    assert (found["output_tokens"], found["input_tokens"], found["tokens_counted_by_server"]) == (40, None, False)
    assert found["goodput"] == pytest.approx(found["requests_per_second"])
    assert found["seconds"] > 0.03
    path, body = server.bodies[0]
    assert path == "/v1/completions"
    assert body["top_p"] == 0.5
    assert len(body["prompt"].split()) == 3


def test_limits_that_are_not_met(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    argv = ("serve", "--url", server.url, "--requests", "3")
    assert result(capsys, *argv, "--slo-ttft-ms", "0.001")["goodput"] == 0
    assert result(capsys, *argv, "--slo-itl-ms", "0.001")["goodput"] == 0


def test_clients_that_leave(capsys: pytest.CaptureFixture[str], serve: Callable[..., LiveServer]) -> None:
    engine = FakeEngine(delay=0.005, answer="word " * 20)
    url = serve(create_app(engine, model_names=["fake"])).url
    argv = ("serve", "--url", url, "--concurrency", "8", "--drop", "0.5", "--output-tokens", "100")
    found = result(capsys, *argv, "--requests", "60")
    assert found["left"] + found["completed"] == 60
    assert 5 < found["left"] < 55
    assert (found["failed"], found["refused"], found["errors"]) == (0, 0, {})
    assert result(capsys, "serve", "--url", url, "--duration", "0.5")["seconds"] < 20


def test_errors_are_counted(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    server.fail_every = 4
    found = result(capsys, "serve", "--url", server.url, "--requests", "8", "--concurrency", "2")
    assert (found["completed"], found["failed"]) == (6, 2)
    [(message, count)] = found["errors"].items()
    assert count == 2
    assert "503" in message and "busy" in message
    assert found["output_tokens"] == 18


@pytest.mark.parametrize("fault", ["cut", "empty", "in the stream", "not JSON", "slow"])
def test_answers_that_are_none(capsys: pytest.CaptureFixture[str], server: Server, fault: str) -> None:
    argv = ["serve", "--url", server.url, "--requests", "2"]
    if fault == "cut":
        server.done, said = False, "broke off"
    elif fault == "empty":
        server.pieces, server.usage, said = [], None, "empty"
    elif fault == "in the stream":
        server.pieces, said = [{"error": {"message": "out of memory"}}], "out of memory"
    elif fault == "not JSON":
        server.pieces, said = ["no object"], "no object"
    else:
        server.pause, said = 1.0, "no complete answer in 0.05 s"
        argv += ["--timeout", "0.05"]
    found = result(capsys, *argv, status=1)
    assert (found["completed"], found["failed"]) == (0, 2)
    assert found["ttft_ms"] is None
    assert said in next(iter(found["errors"]))


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_load_on_our_own_server(capsys: pytest.CaptureFixture[str], random_model: Path, endpoint: str) -> None:
    with InferenceEngine.builder().model_path(random_model).threads(1).max_batch_size(4).build() as engine:
        live = LiveServer(create_app(engine, model_names=["random"]))
        try:
            found = result(
                capsys, "serve", "--url", live.url, "--requests", "6", "--concurrency", "4", "--output-tokens", "5",
                "--ignore-eos", "--endpoint", endpoint, "--input-words", "4",
            )  # fmt: skip
        finally:
            live.stop()
        assert engine.stats().generated_tokens == 30
    assert (found["completed"], found["errors"], found["model"]) == (6, {}, "random")
    assert (found["output_tokens"], found["tokens_counted_by_server"]) == (30, True)
    assert found["input_tokens"] > 6 * 4
    assert ordered(found["ttft_ms"])
    assert ordered(found["e2e_ms"])


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--url", "http://127.0.0.1:1", "--requests", "2"]) == 1
    assert "http://127.0.0.1:1/v1/models" in capsys.readouterr().err


@pytest.mark.parametrize("quant", list(QUANTS))
def test_random_models_generate(tmp_path: Path, quant: str) -> None:
    out = tmp_path / "model.gguf"
    assert make_model("tiny", quant, out) == out.stat().st_size
    with InferenceEngine.builder().model_path(out).threads(1).max_batch_size(2).build() as engine:
        assert engine.tokenize(" the sea, ÿ \n12") == engine.tokenize(" the sea, ÿ \n12")
        assert engine.detokenize(engine.tokenize(" the sea, ÿ \n12")) == " the sea, ÿ \n12"

        params = GenerationParams(max_tokens=6, temperature=0, ignore_eos=True, logprobs=0)
        answers = [engine.generate([5, 9, seed], params) for seed in (11, 500)]
    for answer in answers:
        assert len(answer.tokens) == 6
        assert answer.logprobs is not None
        # Logits of unit variance: no token is nearly certain, and none is not a number.
        assert all(-9 < entry.logprob < -0.5 for entry in answer.logprobs), answer.logprobs
    assert answers[0].tokens != answers[1].tokens


def test_make_model_by_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Callable[..., InferenceEngine]
) -> None:
    hashes = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.gguf"
        found = result(capsys, "make-model", "tiny", "--quant", "Q4_0", "--out", str(out), "--seed", seed)
        assert (found["bytes"], found["quant"]) == (out.stat().st_size, "Q4_0")
        hashes.append(hashlib.sha256(out.read_bytes()).hexdigest())
    assert hashes[0] == hashes[1] != hashes[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf", "c.gguf"]


def test_an_existing_file_stays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "mine.gguf"
    out.write_bytes(b"mine")
    argv = ["bench", "make-model", "tiny", "--quant", "Q8_0", "--out", str(out)]
    assert main(argv) == 2
    assert "--out" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert main([*argv, "--force"]) == 0
    assert out.stat().st_size > 1_000_000


def test_without_numpy(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert main(["bench", "make-model", "tiny", "--quant", "Q8_0", "--out", str(tmp_path / "m.gguf")]) == 2
    assert "pip install numpy" in capsys.readouterr().err


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("quant", list(QUANTS))
def test_every_tensor_is_whole_blocks(shape: str, quant: str) -> None:
    listed = list(tensors(SHAPES[shape], quant))
    assert len({tensor.name for tensor in listed}) == len(listed)
    for tensor in listed:
        assert tensor.columns % TYPES[tensor.type].weights == 0, tensor
        assert tensor.blocks * TYPES[tensor.type].weights == math.prod(tensor.dims)


def test_the_mix_of_q4_k_m() -> None:
    fine = [t.name for t in tensors(SHAPES["qwen3-0.6b"], "Q4_K_M") if t.type == "Q6_K"]
    assert fine[0] == "token_embd.weight"
    assert sum("attn_v" in name for name in fine) == sum("ffn_down" in name for name in fine) == 14
    assert {"blk.0.attn_v.weight", "blk.27.ffn_down.weight"} < set(fine)


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0"])
def test_mixtures_of_experts(tmp_path: Path, quant: str) -> None:
    out = tmp_path / "moe.gguf"
    assert make_model("tiny-moe", quant, out) == out.stat().st_size
    shapes = {tensor.name: tensor.dims for tensor in tensors(SHAPES["tiny-moe"], quant)}
    assert shapes["blk.1.ffn_down_exps.weight"] == (256, 256, 4)
    assert shapes["blk.1.ffn_gate_inp.weight"] == (256, 4)
    with InferenceEngine.builder().model_path(out).threads(1).build() as engine:
        output = engine.generate([5, 6, 7], GenerationParams(max_tokens=4, ignore_eos=True))
        assert len(output.tokens) == 4


@pytest.mark.parametrize("kind", list(TYPES))
def test_random_blocks_are_plausible(kind: str) -> None:
    import numpy as np

    made = TYPES[kind].make(np.random.default_rng(1), 300, 0.05)
    assert made.shape == (300, TYPES[kind].size)
    assert made.dtype == np.uint8


@pytest.mark.parametrize("size", [vocabulary.LEAST, 1024, 49_152, 128_256])
def test_vocabularies(size: int) -> None:
    words = vocabulary.build(size)
    known = {token: place for place, token in enumerate(words.tokens)}
    assert len(words.tokens) == len(known) == len(words.types) == size
    for merge in words.merges:
        left, right = merge.split(" ")
        assert known[left] < known[left + right] > known[right]
    with pytest.raises(ValueError, match="cannot be made"):
        vocabulary.build(vocabulary.LEAST - 1)


def test_spread() -> None:
    assert spread([]) is None
    found = spread([4.0, 1.0, 3.0, 2.0])
    assert found is not None
    assert (found.mean, found.median) == (2.5, 2.5)
    assert percentile([1.0, 2.0, 3.0], 0.0) == 1.0
    assert percentile([1.0, 2.0, 3.0], 1.0) == 3.0
    assert percentile([0.0, 10.0], 0.9) == 9.0


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["latency", "--prompt", "8,x"], "--prompt"),
        (["latency", "--batch", "0,4"], "--batch"),
        (["latency", "--prompt", "0", "--batch", "0"], "--batch"),
        (["latency", "--repeats", "0"], "--repeats"),
        (["latency", "--decode-tokens", "1"], "--decode-tokens"),
        (["latency", "--isq", "q9k"], "--isq"),
        (["latency", "--dtype", "int3"], "--dtype"),
        (["throughput", "--variation", "1"], "--variation"),
        (["throughput", "--requests", "-1"], "--requests"),
        (["throughput", "--seed", "x"], "--seed"),
        (["throughput", "--json", "/nowhere/at/all.json"], "--json"),
        (["serve"], "--url"),
        (["serve", "--url", "127.0.0.1:2000"], "--url"),
        (["serve", "--url", "http://x", "--request-rate", "0"], "--request-rate"),
        (["serve", "--url", "http://x", "--request-rate", "nan"], "--request-rate"),
        (["serve", "--url", "http://x", "--concurrency", "0"], "--concurrency"),
        (["serve", "--url", "http://x", "--extra-body", "[1]"], "--extra-body"),
        (["serve", "--url", "http://x", "--extra-body", "{"], "--extra-body"),
        (["serve", "--url", "http://x", "--endpoint", "images"], "--endpoint"),
        (["make-model", "huge", "--quant", "Q4_0", "--out", "x.gguf"], "SHAPE"),
        (["make-model", "tiny", "--quant", "Q9", "--out", "x.gguf"], "--quant"),
        (["make-model", "tiny", "--quant", "Q4_0"], "--out"),
        (["make-model", "tiny", "--quant", "Q4_0", "--out", "/nowhere/at/all.gguf"], "--out"),
        ([], "PART"),
        (["speed"], "PART"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], argv: list[str], flag: str) -> None:
    assert main(["bench", *argv]) == 2
    assert flag in capsys.readouterr().err


def test_lengths_that_the_model_cannot_hold(capsys: pytest.CaptureFixture[str], random_model: Path) -> None:
    model = ["--f", str(random_model), "--max-model-len", "64"]
    assert main(["bench", "latency", "--f", str(random_model), "--prompt", "4096"]) == 2
    assert "--prompt" in capsys.readouterr().err
    assert main(["bench", "latency", *model, "--prompt", "64", "--batch", "0"]) == 2
    assert "--prompt" in capsys.readouterr().err
    assert main(["bench", "latency", *model, "--prompt", "0", "--batch", "2"]) == 2
    assert "--decode-prompt" in capsys.readouterr().err
    assert main(["bench", "throughput", *model, "--input-tokens", "60", "--output-tokens", "5"]) == 2
    assert "--input-tokens" in capsys.readouterr().err
