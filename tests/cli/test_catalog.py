"""Which models the flags and models.yaml make together."""

from __future__ import annotations

from pathlib import Path

import pytest

from candle_vllm.cli.catalog import catalog_of
from candle_vllm.cli.flags import serve_parser
from candle_vllm.cli.settings import UsageError
from candle_vllm.errors import ConfigError
from candle_vllm.models import Catalog

FILE = """
idle_unload_secs: 60
models:
  - {name: small, hf_id: org/small, params: {threads: 3, temperature: 0.7}}
  - {name: big, hf_id: org/big}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the command runs in."""
    monkeypatch.delenv("CANDLE_VLLM_MODELS_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(*flags: str) -> Catalog:
    """The catalogue of these flags."""
    return catalog_of(serve_parser(explicit=False).parse_args(flags))


def test_without_a_file_there_is_one_model(folder: Path) -> None:
    (entry,) = made("--m", "org/x", "--threads", "2", "--top-p", "0.5", "--block-size", "32")
    assert (entry.name, entry.config.model_path, entry.config.threads) == ("org/x", "org/x", 2)
    assert (entry.defaults.top_p, entry.block_size) == (0.5, 32)
    (entry,) = made("--served-model-name", "x", "--served-model-name", "y")
    assert (entry.names, entry.config.model_path) == (("x", "y"), "smollm2")


def test_with_a_file_its_first_model_comes_first(folder: Path) -> None:
    (folder / "models.yaml").write_text(FILE)
    catalog = made("--threads", "2", "--temperature", "0.1")
    assert [(one.name, one.config.threads, one.defaults.temperature) for one in catalog] == [
        ("small", 3, 0.7),
        ("big", 2, 0.1),
    ]
    assert (catalog.default.name, catalog.idle_unload_secs) == ("small", 60)


def test_a_model_of_the_file_may_be_named(folder: Path) -> None:
    (folder / "models.yaml").write_text(FILE)
    catalog = made("--m", "big")
    assert [one.name for one in catalog] == ["big", "small"]
    assert (catalog.default.config.model_path, catalog.idle_unload_secs) == ("org/big", 60)
    catalog = made("--m", "big", "--served-model-name", "grand")
    assert catalog.default.names == ("grand", "big", "org/big")


def test_a_further_model_may_be_named(folder: Path) -> None:
    (folder / "models.yaml").write_text(FILE)
    catalog = made("--m", "org/other")
    assert [one.name for one in catalog] == ["org/other", "small", "big"]
    assert catalog.idle_unload_secs == 60


def test_what_cannot_be_made(folder: Path) -> None:
    (folder / "models.yaml").write_text(FILE)
    with pytest.raises(UsageError, match="--served-model-name: models.yaml names its models"):
        made("--served-model-name", "x")
    with pytest.raises(ConfigError, match="'small' is given twice"):
        made("--m", "org/other", "--served-model-name", "small")
    (folder / "models.yaml").write_text("models:\n- nam: x\n")
    with pytest.raises(ConfigError, match="line 2: a model has no 'nam'; did you mean 'name'"):
        made()
