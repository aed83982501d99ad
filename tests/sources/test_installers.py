"""Which installers are found, and what each makes of a package: pips over a folder of wheels, and a uv of shell."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest

from candle_vllm.sources import installers
from candle_vllm.sources.installers import FetchFailed


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one package, the only place where installers look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "some_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some_package/data.bin", b"data")
        info = "some_package-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv(f"UV_{name}", value)
    return folder


def names() -> list[str]:
    return [installer.name.split(" 2")[0] for installer in installers.installers()]


def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an environment that uv made."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pip" else real(name))


def test_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert names() == ["pip"]
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    no_pip(monkeypatch)
    assert names() == ["uv", "Python's own pip"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert names() == ["Python's own pip"]
    monkeypatch.setenv("UV", str(uv))
    assert names()[0] == "uv"


@pytest.mark.parametrize("which", ["pip", "Python's own pip"])
def test_pips(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    if which != "pip":
        no_pip(monkeypatch)
    pip = next(one for one in installers.installers() if one.name.startswith(which))
    target = tmp_path / "target"
    target.mkdir()
    told: list[tuple[int, int]] = []
    wheel = pip.fetch("some-package==1.0", target, fresh=True, progress=lambda *words: told.append(words))
    assert zipfile.ZipFile(wheel).read("some_package/data.bin") == b"data"
    with pytest.raises(FetchFailed, match="ended with 1: ERROR: .*other-package==1.0"):
        pip.fetch("other-package==1.0", target, fresh=False, progress=None)


def test_uv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text(
        """#!/bin/sh
echo "$@" > "$0.asked"
while [ $# -gt 1 ]; do
  [ "$1" = --target ] && mkdir -p "$2/some_package" && printf data > "$2/some_package/data.bin"
  shift
done
[ "$1" = some-package==1.0 ] || { echo; echo "no solution"; echo "for $1"; exit 2; }
"""
    )
    uv.chmod(0o755)
    monkeypatch.setenv("UV", str(uv))
    found = next(one for one in installers.installers() if one.name == "uv")
    package = found.fetch("some-package==1.0", tmp_path, fresh=True, progress=None)
    assert (package / "some_package" / "data.bin").read_bytes() == b"data"
    asked = (tmp_path / "uv.asked").read_text()
    assert asked.startswith("pip install --no-deps --no-build")
    assert f"--python {sys.executable}" in asked and "--no-cache" in asked
    with pytest.raises(FetchFailed, match="uv ended with 2: no solution for other==1.0"):
        found.fetch("other==1.0", tmp_path, fresh=False, progress=None)


def test_an_installer_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "uv"
    broken.write_bytes(b"\x00no program")
    broken.chmod(0o755)
    monkeypatch.setenv("UV", str(broken))
    found = next(one for one in installers.installers() if one.name == "uv")
    with pytest.raises(FetchFailed, match="uv cannot be run"):
        found.fetch("some-package==1.0", tmp_path, fresh=False, progress=None)
