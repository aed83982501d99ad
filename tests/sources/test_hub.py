"""Models from the hub, against a stand-in that speaks as much of its API as is asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from candle_vllm import ModelLoadError, sources
from hub_stand_in import COMMIT, HubStandIn

REPO = {
    "config.json": b"{}",
    "model.safetensors": b"s" * 300_000,
    "tokenizer.json": b'{"t": 1}',
    "pytorch_model.bin": b"pickle",
    "README.md": b"read me",
    "onnx/model.onnx": b"onnx",
}
GGUFS = {"m-Q4_0.gguf": b"q4" * 1000, "m-Q8_0.gguf": b"q8" * 2000, "README.md": b""}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    stand_in = HubStandIn()
    stand_in.repos = {"org/name": dict(REPO), "org/ggufs": dict(GGUFS)}
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("candle_vllm.sources.hub._PAUSES", (0.01, 0.01))
    yield stand_in
    stand_in.close()


def test_exactly_the_needed_files_come(hub: HubStandIn) -> None:
    folder = sources.resolve("org/name")
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == REPO["model.safetensors"]
    assert sorted(set(hub.files)) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_second_time_nothing_is_sent(hub: HubStandIn) -> None:
    first = sources.resolve("org/name")
    hub.asked.clear()
    assert sources.resolve("org/name") == first
    assert hub.files == []


@pytest.mark.parametrize("model", ["org/ggufs:m-Q8_0.gguf", "org/ggufs:Q8_0"])
def test_one_gguf_of_several(hub: HubStandIn, model: str) -> None:
    file = sources.resolve(model)
    assert file.name == "m-Q8_0.gguf"
    assert file.read_bytes() == GGUFS["m-Q8_0.gguf"]
    assert set(hub.files) == {"m-Q8_0.gguf"}
    assert sources.resolve("org/ggufs", weight_file="Q8_0") == file


def test_several_ggufs_and_none_named(hub: HubStandIn) -> None:
    with pytest.raises(ModelLoadError, match="2 GGUF models.*m-Q4_0.gguf, m-Q8_0.gguf"):
        sources.resolve("org/ggufs")


def test_the_progress_ends_at_the_total(hub: HubStandIn) -> None:
    told: list[tuple[str, int, int]] = []
    sources.resolve("org/name", progress=lambda *words: told.append(words))
    total = sum(len(REPO[name]) for name in ("config.json", "model.safetensors", "tokenizer.json"))
    assert told[0] == ("downloading org/name", 0, total)
    assert told[-1] == ("downloading org/name", total, total)


@pytest.mark.parametrize("given", ["direct", "file"])
def test_the_token_is_sent(hub: HubStandIn, tmp_path: Path, given: str) -> None:
    if given == "direct":
        sources.resolve("org/name", hf_token="hf_secret")
    else:
        (tmp_path / "token").write_text(" hf_secret\n")
        sources.resolve("org/name", token_path=tmp_path / "token")
    assert "Bearer hf_secret" in hub.tokens


def test_a_broken_download_is_retried(hub: HubStandIn) -> None:
    hub.failures = 2
    folder = sources.resolve("org/name")
    assert (folder / "model.safetensors").read_bytes() == REPO["model.safetensors"]
    assert hub.failures == 0


def test_a_download_that_stays_broken_is_reported(hub: HubStandIn) -> None:
    hub.failures = 10_000
    with pytest.raises(ModelLoadError, match="cannot fetch .*org/name.*Check the network"):
        sources.resolve("org/name")


def test_a_repository_that_is_not_there(hub: HubStandIn) -> None:
    with pytest.raises(ModelLoadError, match="no model at .*/org/none.*does not exist, or it is private.*HF_TOKEN"):
        sources.resolve("org/none")


def test_a_gated_repository(hub: HubStandIn) -> None:
    hub.gated.add("org/name")
    with pytest.raises(ModelLoadError, match="org/name is gated: accept its terms.*with the token given") as caught:
        sources.resolve("org/name", hf_token="hf_secret")
    assert "hf_secret" not in str(caught.value)


def test_a_revision(hub: HubStandIn) -> None:
    assert sources.resolve("org/name", revision=COMMIT).name == COMMIT
    with pytest.raises(ModelLoadError, match="at nope: the repository has no such branch"):
        sources.resolve("org/name", revision="nope")


def test_offline_takes_what_is_there(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match="not in the local cache and the network is off"):
        sources.resolve("org/name", offline=True)
    folder = sources.resolve("org/name")
    hub.asked.clear()
    assert sources.resolve("org/name", offline=True) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert sources.resolve("org/name") == folder
    assert hub.asked == []


def test_a_hub_that_does_not_answer_falls_back_to_the_cache(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sources.resolve("org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sources.resolve("org/name") == folder
    with pytest.raises(ModelLoadError, match="cannot fetch http://127.0.0.1:9/org/ggufs"):
        sources.resolve("org/ggufs:Q8_0")


def test_pickles_are_refused(hub: HubStandIn) -> None:
    hub.repos["org/pickled"] = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with pytest.raises(ModelLoadError, match="refused"):
        sources.resolve("org/pickled")
    assert hub.files == []
