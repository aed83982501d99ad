"""What the engine takes of the machine: the cores it runs on, threads by what may be used, nothing when idle."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from candle_vllm import ConfigError, GenerationParams, InferenceEngine

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")

SHORT = GenerationParams(max_tokens=5, temperature=0, ignore_eos=True)


def homes(names: tuple[str, ...]) -> dict[str, set[int]]:
    """The cores on which each thread of such a name may run."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith(names):
            found[name] = os.sched_getaffinity(int(task.name))
    return found


def test_threads_run_on_the_cores_given(tiny_model_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    last, first = allowed[-1], allowed[0]
    builder = InferenceEngine.builder().model_path(tiny_model_path).threads(2)
    with builder.cpu_affinity([last, first]).build() as engine:
        answer = engine.generate([1, 2, 3], SHORT).tokens
        found = homes(("compute-", "candle-vllm-eng"))
    assert found["candle-vllm-eng"] == {last}
    assert {first} in found.values()
    assert os.sched_getaffinity(0) == set(allowed), "the caller's own thread is left alone"
    with InferenceEngine.builder().model_path(tiny_model_path).cpu_affinity(str(first)).build() as engine:
        assert engine.model_info.threads == 1
        assert engine.generate([1, 2, 3], SHORT).tokens == answer


@pytest.mark.parametrize("core", [8191, None])
def test_cores_that_cannot_be_used(tiny_model_path: Path, core: int | None) -> None:
    allowed = os.sched_getaffinity(0)
    absent = core if core is not None else max(allowed) + 1
    builder = InferenceEngine.builder().model_path(tiny_model_path).cpu_affinity([min(allowed), absent])
    with pytest.raises(
        ConfigError, match=f"cpu_affinity must be among what this process may use, cores? .*; got core {absent}"
    ):
        builder.build()


def run(tiny_model_path: Path, code: str, before: str = "") -> str:
    """What a process prints that has an engine over the tiny model; ``before`` runs first."""
    text = f"""
import os
{before}
from candle_vllm import InferenceEngine
with InferenceEngine.builder().model_path({str(tiny_model_path)!r}).build() as engine:
    {code}
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_a_narrow_mask_means_fewer_threads(tiny_model_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    threads = run(tiny_model_path, "print(engine.model_info.threads)", f"os.sched_setaffinity(0, [{core}])")
    assert threads == "1"


def test_a_quota_means_fewer_threads(tiny_model_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    group = Path("/sys/fs/cgroup/cpu/candle-vllm-test")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("150000")
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        code = "print(engine.model_info.threads, len(engine.generate([1, 2, 3]).tokens) > 0)"
        assert run(tiny_model_path, code, join) == "1 True"
    finally:
        group.rmdir()


def busy() -> float:
    """Seconds of processor time of this process so far, all threads."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_an_idle_engine_uses_no_time(tiny: Callable[..., InferenceEngine]) -> None:
    engine = tiny(threads=2)

    async def work_and_wait() -> float:
        await asyncio.gather(*(engine.generate_async([1, 2, 3], SHORT) for _ in range(4)))
        await asyncio.sleep(0.2)
        before = busy()
        await asyncio.sleep(2.5)
        return busy() - before

    spent = asyncio.run(work_and_wait())
    engine.generate([1, 2, 3], SHORT)
    time.sleep(0.2)
    before = busy()
    time.sleep(2.5)
    spent += busy() - before
    # Less than 1 % of a core over 5 seconds.
    assert spent < 0.05
