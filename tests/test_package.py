"""What importing the package costs and brings, and which module may import which."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import candle_vllm

SOURCE = Path(candle_vllm.__file__).parent
CONFIG = Path(__file__).parent.parent / "pyproject.toml"


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_name_is_there() -> None:
    assert "InferenceEngine" in candle_vllm.__all__
    for name in candle_vllm.__all__:
        assert getattr(candle_vllm, name) is not None
    assert set(candle_vllm.__all__) <= set(dir(candle_vllm))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = candle_vllm.no_such_name


def test_importing_is_cheap() -> None:
    code = "import time; t = time.perf_counter(); import candle_vllm; print(time.perf_counter() - t)"
    assert min(float(fresh(code)) for _ in range(3)) < 0.15
    code = code.replace("import candle_vllm;", "from candle_vllm import InferenceEngine;")
    assert min(float(fresh(code)) for _ in range(3)) < 0.6


def test_the_engine_comes_without_heavy_libraries() -> None:
    heavy = ["fastapi", "pydantic", "huggingface_hub", "rich", "uvicorn", "jinja2", "torch", "asyncio"]
    found = f"[name for name in {heavy!r} if name in sys.modules]"
    code = f"import json, sys; from candle_vllm import InferenceEngine; print(json.dumps({found}))"
    assert json.loads(fresh(code)) == []


def test_the_native_module_has_one_user() -> None:
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if "_native" in path.read_text(encoding="utf-8"):
            assert name.startswith("engine/") or name == "__init__.py", name


def test_the_stub_tells_the_truth(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--mypy-config-file", CONFIG, "candle_vllm._native"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_arrow_points_down() -> None:
    root = SOURCE.parent.parent
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    code = "from importlinter.cli import lint_imports_command as check; check([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
