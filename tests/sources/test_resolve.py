from pathlib import Path

import pytest

from candle_vllm import ConfigError, ModelLoadError, sources


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test here may reach a network."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)


def test_a_folder_of_safetensors(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").touch()
    assert sources.resolve(tmp_path / "m") == tmp_path / "m"
    assert sources.resolve("m") == Path("m")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert sources.resolve("m.gguf") == Path("m.gguf")
    with pytest.raises(ConfigError, match="weight_file"):
        sources.resolve("m.gguf", weight_file="n.gguf")


def test_a_folder_of_ggufs(tmp_path: Path) -> None:
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        (tmp_path / name).touch()
    assert sources.resolve(tmp_path, weight_file="Q8_0") == tmp_path / "m-Q8_0.gguf"
    with pytest.raises(ModelLoadError, match="2 GGUF models"):
        sources.resolve(tmp_path)


def test_a_local_folder_wins_over_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "org" / "name" / "model.safetensors").touch()
    assert sources.resolve("org/name") == Path("org/name")


@pytest.mark.parametrize("name", ["nothing", "./a/b", "/no/such/folder", "a/b/c", "models/x.gguf", Path("org/name")])
def test_what_is_nowhere(name: str | Path) -> None:
    with pytest.raises(ModelLoadError, match="no such file or folder"):
        sources.resolve(name)


def test_an_empty_name() -> None:
    with pytest.raises(ConfigError, match="model_path must be"):
        sources.resolve("")


def test_a_file_named_twice() -> None:
    with pytest.raises(ConfigError, match=r"weight_file must be left out.*a\.gguf.*b\.gguf"):
        sources.resolve("org/name:a.gguf", weight_file="b.gguf")


def test_a_token_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, said in (("empty", "not an empty one"), ("missing", "can be read; got missing")):
        with pytest.raises(ConfigError, match=said):
            sources.resolve("org/name", token_path=path)


@pytest.mark.parametrize(
    ("variables", "ending"),
    [
        ({"CANDLE_VLLM_CACHE": "/c"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/candle-vllm"),
        ({"HOME": "/h"}, "/h/.cache/candle-vllm"),
    ],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], ending: str) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("CANDLE_VLLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sources.cache_folder() == Path(ending)
