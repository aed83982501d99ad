"""A mixture of experts reads the experts of its tokens: what the system saw touched in a step that decodes one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from candle_vllm.bench.make_model import make_model
from candle_vllm.bench.shapes import SHAPES, Shape, tensors

SHAPE = Shape("qwen3moe", 4, 512, 1536, 8, 4, 64, 4096, 4096, 10_000.0, tied=False, experts=8, experts_used=2)

# Small pages (PR_SET_THP_DISABLE), for the system notes what was touched page by page. A processor notes no page again
# that it still knows the place of (TLB): "1" clears the notes alone, "4" makes it forget the places too.
DECODE = """
import ctypes, json, sys
from pathlib import Path
from candle_vllm import GenerationParams, InferenceEngine
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
def referenced():
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Referenced:"))
builder = InferenceEngine.builder().model_path(sys.argv[1]).background(False).threads(2)
touched = []
with builder.build() as engine:
    for step in range(13):
        if step == 1:
            request = engine.add_request(list(range(5, 21)), GenerationParams(max_tokens=40, ignore_eos=True, seed=1))
            engine.step()
        Path("/proc/self/clear_refs").write_text("1")
        Path("/proc/self/clear_refs").write_text("4")
        engine.step()
        touched.append(referenced())
print(json.dumps(touched))
"""


@pytest.fixture(params=("Q4_0", "Q4_K", "Q8_0"))
def quant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="the system does not note what was touched")
def test_a_decoded_token_reads_the_experts_it_is_sent_to(
    quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, "eight", SHAPE)
    make_model("eight", quant, tmp_path / "eight.gguf")
    run = subprocess.run(
        [sys.executable, "-c", DECODE, str(tmp_path / "eight.gguf")], capture_output=True, text=True, check=True
    )
    resting, *steps = json.loads(run.stdout)
    assert len(steps) == 12
    sizes = {tensor.name: tensor.size for tensor in tensors(SHAPE, quant)}
    sizes.pop("token_embd.weight")  # one row of it
    experts = sum(size for name, size in sizes.items() if "_exps" in name)
    active = sum(sizes.values()) - experts * (SHAPE.experts - SHAPE.experts_used) // SHAPE.experts
    assert max(steps) - resting <= 1.3 * active, [round(step / active, 2) for step in steps]
    # The measure itself: a step cannot do with less than the weights it needs. (A system that takes notes for its own
    # ends may clear some meanwhile.)
    assert max(steps) >= 0.9 * active, [round(step / active, 2) for step in steps]
