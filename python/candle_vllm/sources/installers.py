"""A package from the user's index, by whichever installer is at hand: pip, uv, or the pip that Python carries along.

The user's own installer knows their index, mirrors, proxies and certificates; nothing is installed. Knows nothing of
what is in the package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["FetchFailed", "Installer", "installers"]

Progress = Callable[[int, int], None]
"""Told of bytes: (done, total)."""


class FetchFailed(Exception):  # noqa: N818 - what happened, not what is wrong with the program
    """An installer did not deliver; the text is what it said."""


class Installer(Protocol):
    """One way to a package."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def fetch(self, requirement: str, folder: Path, *, fresh: bool, progress: Progress | None) -> Path:
        """The package in `folder`: a wheel, or the folder that holds its files. Raises FetchFailed.

        `fresh` passes by the installer's cache, which may hold a broken copy.
        """
        ...


def installers() -> list[Installer]:
    """Those that are here, the most usual one first. The pip that Python carries stands in for an installed one."""
    found: list[Installer] = []
    if has_pip := importlib.util.find_spec("pip") is not None:
        found.append(_Pip("pip", (sys.executable, "-m", "pip"), _installed_version("pip")))
    if uv := shutil.which(os.environ.get("UV") or "uv"):
        found.append(_Uv(uv))
    if not has_pip and (wheel := _carried_pip()) is not None:
        # A wheel is a zip file, and a package in one can be run like a script.
        version = wheel.name.split("-")[1]
        found.append(_Pip(f"Python's own pip {version}", (sys.executable, f"{wheel}{os.sep}pip"), _numbers(version)))
    return found


def _carried_pip() -> Path | None:
    """The wheel from which `python -m ensurepip` would install pip."""
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    if (spec := importlib.util.find_spec("ensurepip")) is not None and spec.origin is not None:
        folders.append(str(Path(spec.origin).parent / "_bundled"))
    wheels = [wheel for folder in folders if folder for wheel in sorted(Path(folder).glob("pip-*.whl"))]
    return wheels[-1] if wheels else None


@dataclass(frozen=True, slots=True)
class _Pip:
    name: str
    command: tuple[str, ...]
    version: tuple[int, ...]

    def fetch(self, requirement: str, folder: Path, *, fresh: bool, progress: Progress | None) -> Path:
        raw = self.version >= (24, 1) and progress is not None
        options = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        options += ["--dest", str(folder), "--progress-bar", "raw" if raw else "off"]
        options += ["--no-cache-dir"] if fresh else []
        _run(self.name, [*self.command, *options, requirement], progress)
        wheels = sorted(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise FetchFailed(f"{self.name} gave {len(wheels)} wheels instead of one")
        return wheels[0]


@dataclass(frozen=True, slots=True)
class _Uv:
    path: str

    @property
    def name(self) -> str:
        return "uv"

    def fetch(self, requirement: str, folder: Path, *, fresh: bool, progress: Progress | None) -> Path:
        # uv downloads only to install, so it installs into a folder that is nobody's environment.
        target = folder / "package"
        options = ["pip", "install", "--no-deps", "--no-build", "--quiet", "--python", sys.executable]
        options += ["--target", str(target), *(["--no-cache"] if fresh else [])]
        _run(self.name, [self.path, *options, requirement], None)
        return target


def _run(name: str, command: Sequence[str], progress: Progress | None) -> None:
    """Run an installer to its end; raises FetchFailed with what it said last."""
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise FetchFailed(f"{name} cannot be run: {error}") from error
    with process:
        try:
            for line in process.stdout or ():
                if (moved := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)) is None:
                    lines.append(line.strip())
                elif progress is not None:
                    progress(int(moved[1]), int(moved[2]))
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        told = [line for line in lines if line]
        said = [line for line in told if line.startswith("ERROR")] or told[-3:] or ["it said nothing"]
        raise FetchFailed(f"{name} ended with {process.returncode}: {' '.join(said)}")


def _installed_version(package: str) -> tuple[int, ...]:
    try:
        return _numbers(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return (0,)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
