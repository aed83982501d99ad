"""Models for the tests: tiny golden checkpoints made here, and SmolLM2 fetched as users get it."""

import importlib.util
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import InferenceEngine, sources
from live_server import LiveServer

GOLDENS = Path(__file__).parent / "goldens"

# What a shell starts in the background ignores interrupts; so would the programs that tests start, and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Reference data; see its README."""
    return GOLDENS


@pytest.fixture(scope="session")
def materialize(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A golden checkpoint by its name, with the safetensors file that its weights.json describes."""
    spec = importlib.util.spec_from_file_location("materialize", GOLDENS / "materialize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("goldens")

    def make(name: str) -> Path:
        target = folder / name
        if not target.exists():
            shutil.copytree(GOLDENS / "hf" / name, target, copy_function=shutil.copyfile)
            module.checkpoint(target)
        return target

    return make


@pytest.fixture(scope="session")
def tiny_model_path(materialize: Callable[[str], Path]) -> Path:
    """A llama of 3 layers, 320 tokens and 512 positions with random weights."""
    return materialize("llama")


@pytest.fixture(scope="session")
def endless_model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with room for 65,536 tokens: an answer that is surely still under way when a test looks."""
    target = tmp_path_factory.mktemp("endless") / "endless"
    shutil.copytree(tiny_model_path, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = 65_536
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@pytest.fixture(scope="session")
def endless_engine(endless_model_path: Path) -> Iterator[InferenceEngine]:
    """An engine over the endless model, shared by all tests."""
    builder = InferenceEngine.builder().model_path(endless_model_path).dtype("f32").threads(1)
    with builder.kv_cache_memory(256 << 20).build() as engine:
        yield engine


@pytest.fixture(scope="session")
def tiny_engine(tiny_model_path: Path) -> Iterator[InferenceEngine]:
    """An engine over the tiny model in float32, shared by all tests."""
    with InferenceEngine.builder().model_path(tiny_model_path).dtype("f32").threads(1).build() as engine:
        yield engine


@pytest.fixture
def tiny(tiny_model_path: Path, endless_model_path: Path) -> Iterator[Callable[..., InferenceEngine]]:
    """Engines of the test's own over the tiny model, with the settings given; closed after it."""
    engines: list[InferenceEngine] = []

    def build(*, endless: bool = False, **settings: Any) -> InferenceEngine:
        builder = InferenceEngine.builder().model_path(endless_model_path if endless else tiny_model_path)
        builder.dtype("f32").threads(1).kv_cache_memory(256 << 20)
        for name, value in settings.items():
            getattr(builder, name)(value)
        engines.append(builder.build())
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, the default model, as a `.gguf` file."""
    return sources.resolve("smollm2")


@pytest.fixture(scope="session")
def smollm2_engine(smollm2_path: Path) -> Iterator[InferenceEngine]:
    """An engine over SmolLM2 in the default arithmetic, shared by all tests."""
    with InferenceEngine.builder().model_path(smollm2_path).max_batch_size(64).build() as engine:
        yield engine


@pytest.fixture
def serve() -> Iterator[Callable[..., LiveServer]]:
    """``serve(app)`` starts a server that the test's end stops."""
    running: list[LiveServer] = []

    def start(app: Any, **options: Any) -> LiveServer:
        running.append(LiveServer(app, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()
