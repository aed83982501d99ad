"""Building, closing, forking, interrupting: the life of an engine around its requests."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from candle_vllm import (
    ConfigError,
    DeviceError,
    EngineConfig,
    FinishReason,
    GenerationError,
    GenerationParams,
    InferenceEngine,
    ModelLoadError,
)

LONG = GenerationParams(max_tokens=500, temperature=0, ignore_eos=True)
ENDLESS = GenerationParams(max_tokens=60_000, temperature=0, ignore_eos=True)
SHORT = GenerationParams(max_tokens=5, temperature=0, ignore_eos=True)


def test_a_config_is_a_builder_is_a_config(tiny_model_path: Path) -> None:
    config = EngineConfig(model_path=tiny_model_path, dtype="float32", max_batch_size=3, threads=1)
    with InferenceEngine(config) as engine:
        assert engine.config is config
        assert engine.model_info.max_batch_size == 3
        assert "(closed)" not in repr(engine)
    assert engine.closed
    with pytest.raises(ConfigError, match="EngineConfig"):
        InferenceEngine("smollm2")  # type: ignore[arg-type]


def test_the_progress_is_told(tiny_model_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    builder = InferenceEngine.builder().model_path(tiny_model_path)
    builder.progress(lambda *words: told.append(words)).build().close()
    assert told
    assert all(stage and 0 <= done <= total for stage, done, total in told)


def test_a_progress_that_raises_stops_the_loading(tiny_model_path: Path) -> None:
    def report(stage: str, done: int, total: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        InferenceEngine.builder().model_path(tiny_model_path).progress(report).build()


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "metal"])
def test_a_device_that_is_not_there(device: str) -> None:
    # The model is not looked for: it would not be found.
    with pytest.raises(DeviceError, match="cpu"):
        InferenceEngine.builder().model_path("no/such").device(device).build()


def test_what_cannot_be_loaded(tmp_path: Path, tiny_model_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere"):
        InferenceEngine.builder().model_path("nowhere").build()
    (tmp_path / "x.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ModelLoadError):
        InferenceEngine.builder().model_path(tmp_path / "x.gguf").build()
    with pytest.raises(ConfigError, match="kv_cache_memory"):
        InferenceEngine.builder().model_path(tiny_model_path).kv_cache_memory(1).build()


def test_closing_ends_everything(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(
        endless=True,
    )
    handle = engine.add_request([7], ENDLESS)
    next(handle)
    waiting = threading.Thread(target=engine.close)
    waiting.start()
    assert handle.result(timeout=5).finish_reason is FinishReason.CANCELLED
    waiting.join()
    engine.close()
    assert engine.closed
    assert engine.stats().closed
    for call in (
        lambda: engine.generate("a"),
        lambda: engine.add_request("a"),
        lambda: asyncio.run(engine.generate_async("a")),
    ):
        with pytest.raises(GenerationError, match="closed"):
            call()
    assert "(closed)" in repr(engine)
    handle.cancel()


async def test_closing_ends_tasks(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(
        endless=True,
    )
    task = asyncio.create_task(engine.generate_async([[7], [8]], ENDLESS))
    await asyncio.sleep(0.02)
    await asyncio.to_thread(engine.close)
    assert {output.finish_reason for output in await asyncio.wait_for(task, 5)} == {FinishReason.CANCELLED}


def test_two_engines_at_once(tiny: Callable[..., InferenceEngine], materialize: Callable[[str], Path]) -> None:
    one = tiny()
    with InferenceEngine.builder().model_path(materialize("qwen2")).dtype("f32").threads(1).build() as two:
        alone = one.generate([7], SHORT).tokens
        first, second = one.add_request([7], LONG), two.add_request([7], LONG)
        assert first.result().tokens[:5] == alone
        assert second.result().tokens[:5] == two.generate([7], SHORT).tokens
        assert one.model_info.architecture != two.model_info.architecture
    assert one.generate([7], SHORT).tokens == alone


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_a_dropped_engine_ends(tiny_model_path: Path) -> None:
    def engines() -> int:
        count = 0
        for task in tasks.iterdir():
            with suppress(OSError):  # it ended between the listing and the look
                count += (task / "comm").read_text().startswith("candle-vllm-eng")
        return count

    def becomes(count: int) -> bool:
        # A thread names itself a moment after it began, and is listed for a moment after it ended.
        for _ in range(200):
            if engines() == count:
                return True
            time.sleep(0.01)
        return False

    tasks = Path("/proc/self/task")
    before = engines()
    engine = InferenceEngine.builder().model_path(tiny_model_path).threads(1).build()
    assert becomes(before + 1)
    del engine
    assert becomes(before)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_loading_and_closing_leaves_memory_flat(tiny_model_path: Path) -> None:
    code = f"""
        from candle_vllm import GenerationParams, InferenceEngine
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        def turn():
            with InferenceEngine.builder().model_path({str(tiny_model_path)!r}).threads(2).build() as engine:
                engine.generate([[5], [6]], GenerationParams(max_tokens=5))
        for _ in range(5):
            turn()
        before = resident()
        for _ in range(40):
            turn()
        print(resident() - before)
    """
    # glibc keeps an arena for every thread that once contended for one, up to 8 a core, which come and go by megabytes.
    env = dict(os.environ, MALLOC_ARENA_MAX="1")
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert int(done.stdout) < 4 << 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny()
    handle = engine.add_request([7], LONG)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for call in (
                lambda: engine.generate("a"),
                engine.stats,
                lambda: next(handle),
                lambda: engine.tokenize("a"),
            ):
                with pytest.raises(GenerationError, match="fork"):
                    call()
            handle.cancel()
            engine.close()
            del handle, engine
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    assert len(handle.result(timeout=20).tokens) == 500


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    "call",
    [
        "engine.generate([7], params)",
        "engine.generate([[7], [8]], params)",
        "for chunk in engine.stream([7], params): pass",
        "engine.add_request([7], params).result()",
        "asyncio.run(engine.generate_async([7], params))",
        "engine2.generate([7], params)",
    ],
)
def test_ctrl_c_interrupts(tiny_model_path: Path, call: str) -> None:
    code = f"""
        import asyncio, sys, time
        from candle_vllm import GenerationParams, InferenceEngine
        builder = InferenceEngine.builder().model_path({str(tiny_model_path)!r}).threads(1).max_sequence_length(512)
        engine = builder.build()
        engine2 = builder.background(False).build()
        params = GenerationParams(max_tokens=500, ignore_eos=True)
        print("ready", flush=True)
        try:
            while True:
                {call}
        except KeyboardInterrupt:
            pass
        deadline = time.monotonic() + 2
        while engine.stats().running and time.monotonic() < deadline:
            time.sleep(0.01)
        print("running", engine.stats().running, flush=True)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert run.stdout.read() == "running 0\n"
        assert run.wait(10) == 0
        assert time.monotonic() - begin < 5


def test_the_folder_at_hand_has_its_real_name(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model_path)
    with InferenceEngine.builder().model_path(".").build() as engine:
        assert engine.model_info.name == tiny_model_path.name


def test_a_template_of_the_user_s_own(tiny_model_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }} \u2192", encoding="utf-8")
    builder = InferenceEngine.builder().model_path(tiny_model_path)
    with builder.build() as engine:
        assert engine.chat_templates != {"default": "{{ messages[0].content }} \u2192"}
    with builder.chat_template(file).build() as engine:
        assert engine.chat_templates == {"default": "{{ messages[0].content }} \u2192"}
    for bad in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match="chat_template must be a file of UTF-8 text that can be read"):
            builder.chat_template(bad).build()
