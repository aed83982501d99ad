"""pull, list and rm over a cache of their own and a hub that stands in for the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from candle_vllm import sources
from candle_vllm.cli import main
from candle_vllm.sources import embedded
from hub_stand_in import HubStandIn


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    """A hub with two models and a repository that is none, and caches of the test's own."""
    stand_in = HubStandIn()
    stand_in.repos["org/plain"] = {"config.json": b"{}", "model.safetensors": b"x" * 100}
    stand_in.repos["org/several"] = {"a-Q4_0.gguf": b"GGUF4", "a-Q8_0.gguf": b"GGUF8888"}
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("candle_vllm.sources.hub._PAUSES", (0.01, 0.01))
    monkeypatch.setenv("CANDLE_VLLM_CACHE", str(tmp_path / "own"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield stand_in
    stand_in.close()


def test_nothing_is_here_yet(hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr()
    assert (said.out, "candle-vllm pull" in said.err) == ("", True)
    assert main(["rm", "org/plain"]) == 2
    assert "org/plain is not among the models that were fetched: none at all" in capsys.readouterr().err


def test_models_come_are_shown_and_go(hub: HubStandIn, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["pull", "org/plain"]) == 0
    place = Path(capsys.readouterr().out.strip())
    assert sources.resolve("org/plain") == place
    assert (place / "model.safetensors").read_bytes() == b"x" * 100
    assert main(["pull", "org/several", "--f", "q8_0"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "a-Q8_0.gguf"
    default = embedded.place(tmp_path / "own")
    default.parent.mkdir(parents=True)
    default.write_bytes(b"x" * 2_000_000)

    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MODEL", "MB", "LAST", "USED"]
    assert {line.split()[0]: line.split()[1] for line in lines[1:]} == {
        "org/plain": "0.0",
        "org/several": "0.0",
        "smollm2": "2.0",
    }

    assert main(["rm", "org/plain", "no/such"]) == 2
    assert place.exists()
    capsys.readouterr()
    assert main(["rm", "org/plain", "smollm2"]) == 0
    assert "org/plain is gone" in capsys.readouterr().out
    assert [model.name for model in sources.fetched()] == ["org/several"]
    assert not default.exists()
    assert not place.exists()


def test_what_cannot_be_pulled_is_a_message(hub: HubStandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "org/nothing"]) == 1
    assert "no model at" in capsys.readouterr().err
    assert main(["pull", "org/several"]) == 1
    assert "2 GGUF models" in capsys.readouterr().err
    assert main(["pull", "org/several:a-Q8_0.gguf", "--f", "x"]) == 2
    assert "--weight-file must be left out" in capsys.readouterr().err
