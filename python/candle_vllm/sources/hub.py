"""Models from the Hugging Face hub, through huggingface_hub and its cache: exactly the files that are needed.

Knows nothing of local paths and aliases.
"""

import glob
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from candle_vllm.errors import ModelLoadError
from candle_vllm.sources.choose import Chosen, choose

__all__ = ["cache_folder", "fetch"]

_PAUSES = (0.5, 1.0)
"""Seconds before the second and the third attempt."""
_LOOK = 0.2
"""Seconds between two looks at how much has arrived."""

Progress = Callable[[str, int, int], None]


def fetch(
    repo: str,
    *,
    revision: str | None,
    weight_file: str | None,
    token: str | None,
    offline: bool,
    progress: Progress | None,
) -> Path:
    """Give the cached folder or `.gguf` file of a repository, downloading what is missing. Raises ModelLoadError."""
    if offline:
        found = _cached(repo, revision, weight_file)
        if found is None:
            raise ModelLoadError(
                f"{repo} is not in the local cache and the network is off (HF_HUB_OFFLINE); allow the network once, "
                "or give a local path"
            )
        return found
    try:
        return _download(repo, revision, weight_file, token, progress)
    except ModelLoadError as error:
        # No answer from the hub: what was fetched before will do, if it is complete. A refusal by the hub stands.
        if isinstance(error, _UnreachableError):
            with suppress(ModelLoadError):
                if (found := _cached(repo, revision, weight_file)) is not None:
                    return found
        raise


class _UnreachableError(ModelLoadError):
    """The hub did not answer."""


def _download(
    repo: str, revision: str | None, weight_file: str | None, token: str | None, progress: Progress | None
) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    endpoint = _endpoint()
    where = f"{endpoint}/{repo}" + (f" at {revision}" if revision else "")

    try:
        info = _info(HfApi(endpoint=endpoint, token=token), repo, revision)
        siblings = {entry.rfilename: entry for entry in info.siblings or []}
        chosen = choose(sorted(siblings), weight_file, where)
        with _watched(repo, [siblings[name] for name in chosen.names], progress):
            # The library resumes a broken download five times by itself.
            folder = snapshot_download(
                repo,
                revision=revision,
                allow_patterns=[glob.escape(name) for name in chosen.names],
                token=token,
                endpoint=endpoint,
                **_quiet(),
            )
    except ModelLoadError:
        raise
    except Exception as error:
        raise _translated(error, where, token) from error
    return _complete(Path(folder), chosen, where)


def _info(api: Any, repo: str, revision: str | None) -> Any:
    """What the hub says of a repository; asked again when it does not answer or has trouble."""
    for pause in _PAUSES:
        try:
            return api.model_info(repo, revision=revision, files_metadata=True)
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 500)
            if status < 500:
                raise
            time.sleep(pause)
    return api.model_info(repo, revision=revision, files_metadata=True)


def _translated(error: Exception, where: str, token: str | None) -> ModelLoadError:
    """What the hub's library raised, in words that say what to do."""
    from huggingface_hub import errors

    sent = (
        "with the token given" if token else "without an explicit token (HF_TOKEN, hf_token or hf_token_path set one)"
    )
    if isinstance(error, errors.GatedRepoError):
        return ModelLoadError(
            f"{where} is gated: accept its terms on its page and give a token that may read it; asked {sent}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelLoadError(f"{where}: the repository has no such branch, tag or commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelLoadError(
            f"no model at {where}: it does not exist, or it is private; asked {sent}. "
            "Neither is there a local file or folder of that name"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HfHubHTTPError) and status in (401, 403):
        return ModelLoadError(f"{where}: the hub refused access (HTTP {status}); asked {sent}")
    if isinstance(error, errors.HFValidationError):
        return ModelLoadError(f"{where}: {error}")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return ModelLoadError(f"{where}: cannot store the download: {error}")
    lines = str(error).strip().splitlines() or [""]
    return _UnreachableError(
        f"cannot fetch {where}: {type(error).__name__}: {lines[0]}. "
        "Check the network and HF_ENDPOINT, or give a local path"
    )


def _cached(repo: str, revision: str | None, weight_file: str | None) -> Path | None:
    """What an earlier download left, if it is complete."""
    folder = _repo_folder(repo)
    wanted = revision or "main"
    try:
        commit = (folder / "refs" / wanted).read_text(encoding="utf-8").strip()
    except OSError:
        commit = wanted
    snapshot = folder / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return None
    names = sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
    where = f"the cached copy of {repo} ({snapshot})"
    return _complete(snapshot, choose(names, weight_file, where), where)


def _complete(folder: Path, chosen: Chosen, where: str) -> Path:
    missing = [name for name in chosen.names if not (folder / name).is_file()]
    if missing:
        raise ModelLoadError(f"{where}: the download is incomplete, {missing[0]} is missing; try again")
    return folder if chosen.main is None else folder / chosen.main


def _endpoint() -> str:
    # Read at every call: the library reads it once, when it is imported.
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def cache_folder() -> Path:
    """Where Hugging Face's own tools keep what they fetch."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(variable):
            return Path(value).expanduser() / below
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repo_folder(repo: str) -> Path:
    return cache_folder() / ("models--" + repo.replace("/", "--"))


def _quiet() -> dict[str, Any]:
    """Where the cache is, and no bars of the library's own: ours are drawn from `progress`."""
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)
            settings["disable"] = True
            super().__init__(*args, **settings)

    return {"cache_dir": str(cache_folder()), "tqdm_class": Silent}


@contextmanager
def _watched(repo: str, files: list[Any], progress: Progress | None) -> Iterator[None]:
    """Report how many bytes of these files have arrived, by looking at the cache: its layout is documented."""
    if progress is None:
        yield
        return
    blobs = _repo_folder(repo) / "blobs"
    wanted = [(entry.lfs.sha256 if entry.lfs else entry.blob_id, entry.size or 0) for entry in files]
    total = sum(size for _, size in wanted)
    stage = f"downloading {repo}"
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK):
            progress(stage, _arrived(blobs, wanted), total)

    progress(stage, _arrived(blobs, wanted), total)
    watcher = threading.Thread(target=look, name="candle-vllm-download", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    progress(stage, total, total)


def _arrived(blobs: Path, wanted: list[tuple[str, int]]) -> int:
    done = 0
    for name, size in wanted:
        sizes = [0]
        for path in blobs.glob(f"{name}*"):  # the blob itself, or `<name>.<something>.incomplete`
            try:
                sizes.append(path.stat().st_size)
            except OSError:  # renamed between the listing and the look
                continue
        done += min(max(sizes), size)
    return done
