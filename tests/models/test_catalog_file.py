"""models.yaml: what it may say, and the line of what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import ConfigError
from candle_vllm.models import SamplingDefaults, find_catalog, read_catalog

EXAMPLE = """\
idle_unload_secs: 3600
models:
  - name: small
    hf_id: HuggingFaceTB/SmolLM2-135M-Instruct
    params: {dtype: bf16, max_num_seqs: 32, temperature: 0.7, top_p: 0.9}
    notes: answers fast
  - name: local
    local_path: ./models/qwen3-4b
    params: {isq: q4k, kvcache_mem_cpu: 4096, prefill_chunk_size: 1024, block_size: 64}
  - name: repo-gguf
    hf_id: unsloth/Qwen3-4B-GGUF
    weight_file: Qwen3-4B-Q4_K_M.gguf
    params: {device_ids: [], top_k: 40, frequency_penalty: 0.0, presence_penalty: 0.0}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the catalogue is to stand."""
    return tmp_path / "models.yaml"


def test_the_example(file: Path) -> None:
    file.write_text(EXAMPLE)
    catalog = read_catalog(file)
    small, local, gguf = catalog
    assert catalog.idle_unload_secs == 3600
    assert small.names == ("small", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (small.config.model_path, small.config.dtype, small.config.max_batch_size) == (small.ids[0], "bf16", 32)
    assert (small.defaults.named(), small.notes) == ({"temperature": 0.7, "top_p": 0.9}, "answers fast")
    assert local.config.model_path == str(file.parent / "models/qwen3-4b")
    assert (local.config.kv_cache_memory, local.config.prefill_chunk_size, local.block_size) == (4096 << 20, 1024, 64)
    assert local.config.isq == "q4_k"
    assert (gguf.config.weight_file, gguf.config.device) == ("Qwen3-4B-Q4_K_M.gguf", "cpu")
    assert gguf.defaults == SamplingDefaults(top_k=40, frequency_penalty=0.0, presence_penalty=0.0)
    assert catalog.find("unsloth/Qwen3-4B-GGUF") is gguf


def test_the_example_for_readers() -> None:
    catalog = read_catalog(Path(__file__).parents[2] / "examples" / "models.yaml")
    assert [one.name for one in catalog] == ["small", "local", "repo-gguf"]


def test_what_the_command_says_holds_where_the_file_says_nothing(file: Path) -> None:
    file.write_text("models: [{name: a, hf_id: o/a, params: {threads: 3, top_k: 0}}, {name: b, hf_id: o/b}]")
    base = EngineConfig(threads=2, max_batch_size=7, weight_file="x.gguf", revision="r")
    first, second = read_catalog(file, base=base, defaults=SamplingDefaults(top_k=9, min_p=0.5))
    assert (first.config.threads, second.config.threads, first.config.max_batch_size) == (3, 2, 7)
    # 0: all tokens, whatever the command or the checkpoint say.
    assert (first.defaults.top_k, second.defaults.top_k) == (0, 9)
    assert first.defaults.min_p == second.defaults.min_p == 0.5
    # These belong to the model that the command names.
    assert (first.config.weight_file, first.config.revision) == (None, None)


def test_params_are_those_of_the_flags(file: Path) -> None:
    file.write_text(
        "models:\n- &one\n  name: a\n  hf_id: o/a\n  params: &params\n    max_model_len: 512\n    cpu: true\n"
        "    prefill_chunk_size: 0\n    disable_prefix_cache: true\n    kvcache_dtype: f32\n    revision: main\n"
        "    cpu_affinity: 0-1\n    disable_cuda_graph: true\n    mem:\n"
        "- <<: *one\n  name: b\n  params: {<<: *params, device: auto, device_ids: [1]}\n"
    )
    first, second = read_catalog(file)
    config = first.config
    assert (config.max_sequence_length, config.device, config.kv_cache_dtype, config.revision) == (
        512,
        "cpu",
        "f32",
        "main",
    )
    assert (config.enable_chunked_prefill, config.enable_prefix_cache, config.cpu_affinity) == (False, False, (0, 1))
    assert (config.enable_cuda_graph, config.kv_cache_memory) == (False, None)
    assert (second.config.max_sequence_length, second.config.device, second.name) == (512, "cuda:1", "b")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("models:\n  - name: a\n    hf_id: [unclosed\n", 4, "expected ',' or ']'"),
        ("models:\n\t- name: a\n", 2, "found character '\\t'"),
        ("- name: a\n", 1, "the file must be a mapping"),
        ("idle_unload_secs: 3\n", 1, "there must be a list of models under 'models:'"),
        ("models: {}\n", 1, "models must be a list"),
        ("models: []\n", 1, "at least one model"),
        ("models:\n- a\n", 2, "a model must be a mapping"),
        ("models:\n- hf_id: o/a\n", 2, "a model must have a name"),
        ("models:\n- name: 3\n  hf_id: o/a\n", 2, "name must be a text that is not empty; got 3"),
        ("models:\n- name: no\n  hf_id: o/a\n", 2, "got False; in quotes it would be a text"),
        ("models:\n- name: ''\n  hf_id: o/a\n", 2, "name must be a text that is not empty; got ''"),
        ('models:\n- name: "a\\u0000"\n  hf_id: o/a\n', 2, "printable"),
        ("models:\n- name: a\n", 2, "must have an hf_id or a local_path, and not both"),
        ("models:\n- name: a\n  hf_id: o/a\n  local_path: x\n", 2, "must have an hf_id or a local_path, and not both"),
        ("models:\n- name: a\n  hf_id: o/a\n- name: a\n  hf_id: o/b\n", 4, "'a' is taken by the model of line 2"),
        ("models:\n- name: a\n  hf_id: o/a\n  hf_id: o/b\n", 3, "'hf_id' is given twice"),
        ("models:\n- name: a\n  hf-id: o/a\n", 3, "a model has no 'hf-id'; did you mean 'hf_id'?"),
        ("model: []\n", 1, "the file has no 'model'; did you mean 'models'?"),
        ("models:\n- name: a\n  hf_id: o/a\n  [1]: 2\n", 4, "a model has no None; known are name"),
        ("models:\n- name: a\n  hf_id: o/a\n  params:\n    tempreture: 1\n", 5, "did you mean 'temperature'?"),
        ("models:\n- name: a\n  hf_id: o/a\n  params:\n    dtype: bf16\n    top_p: 1.5\n", 6, "top_p must be"),
        ("models:\n- name: a\n  hf_id: o/a\n  params:\n    max_num_seqs: 0\n", 5, "max_num_seqs must be an integer"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {dtype: int3}\n", 4, "dtype must be one of"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {cpu: maybe}\n", 4, "cpu must be True or False"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {device_ids: [0, 1]}\n", 4, "one number"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {device_ids: 0}\n", 4, "a list of GPU numbers"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {mem: 0}\n", 4, "mem must be an integer of at least 1"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: 3\n", 4, "params must be a mapping"),
        ("models:\n- name: a\n  hf_id: o/a\n  params: {isq: 4}\n", 4, "isq must be one of q4_0"),
        ("models:\n- name: a\n  hf_id: o/a\n  notes: [1]\n", 4, "notes must be a text"),
        ("idle_unload_secs: 0\nmodels: [{name: a, hf_id: o/a}]\n", 1, "idle_unload_secs must be a number above 0"),
        ("models: [{name: a, hf_id: !!python/object:os.system o/a}]\n", 1, "could not determine a constructor"),
        ("models: [{name: a, hf_id: o/a}]\n---\nmodels: []\n", 2, "but found another document"),
    ],
)
def test_the_line_that_is_wrong(file: Path, text: str, line: int, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_catalog(file)
    assert str(refused.value).startswith(f"{file}, line {line}: ")
    assert problem in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\xff"])
def test_no_text_or_nothing_in_it(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"models\.yaml: (it is empty|cannot be read)"):
        read_catalog(file)


def test_nesting_that_is_too_deep(file: Path) -> None:
    file.write_text("models: " + "[" * 20_000)
    with pytest.raises(ConfigError, match=r"models\.yaml"):
        read_catalog(file)


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CANDLE_VLLM_MODELS_CONFIG", raising=False)
    assert find_catalog(tmp_path) is None
    (tmp_path / "models.yml").touch()
    assert find_catalog(tmp_path) == tmp_path / "models.yml"
    (tmp_path / "models.yaml").touch()
    with pytest.raises(ConfigError, match="keep one"):
        find_catalog(tmp_path)
    (tmp_path / "other").touch()
    monkeypatch.setenv("CANDLE_VLLM_MODELS_CONFIG", str(tmp_path / "other"))
    assert find_catalog(tmp_path) == tmp_path / "other"
    monkeypatch.setenv("CANDLE_VLLM_MODELS_CONFIG", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="no such file"):
        find_catalog(tmp_path)
