"""candle-vllm run-batch: a file of requests in, a file of answers out, and how far it is meanwhile.

Must not know how lines are read, answered or written.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from candle_vllm.batch import Answer, Answering, Journal, Tally, run_batch
from candle_vllm.cli.catalog import catalog_of
from candle_vllm.cli.loading import load_with, loading_bars
from candle_vllm.cli.settings import UsageError, notation
from candle_vllm.cli.signals import on_signals
from candle_vllm.errors import CandleVllmError
from candle_vllm.models import EngineLoader, ModelManager
from candle_vllm.openai import OpenAIAdapter

WITH_ERRORS, INTERRUPTED = 3, 130
_SAY = 30.0
"""Seconds between two words on how far it is, where there is no terminal to show a bar."""

OnLine = Callable[[Tally], None]


def run_run_batch(args: argparse.Namespace) -> int:
    """Answer what is not answered yet.

    Returns the exit status: 0 all lines answered, 3 all of them but some with an error, 130 interrupted.
    """
    source, out = Path(args.input), Path(args.output)
    if not source.is_file():
        raise UsageError(f"-i {source}: there is no such file")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"-o {out}: there is no such folder")
    if out.exists() and out.samefile(source):
        raise UsageError(f"-o {out}: is the input")
    if args.replicas != 1 and not args.ray:
        raise UsageError(f"--replicas {args.replicas}: needs --ray")
    for name in ("at_once", "window"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    size = source.stat().st_size
    # Every line takes a byte at least; one may lack its end.
    with Journal(out, size + 2) as journal, _replicas(args) as replicas:
        ended = asyncio.run(_run(args, source, size, journal, replicas))
        print(f"{out}: {_lines(journal.count, journal.failed)}", file=sys.stderr)
    if not ended:
        print("interrupted; the same command goes on with the rest", file=sys.stderr)
        return INTERRUPTED
    return WITH_ERRORS if journal.failed else 0


def _lines(count: int, failed: int) -> str:
    return f"{count} lines" + (f", {failed} of them with an error" if failed else "")


async def _run(args: argparse.Namespace, source: Path, size: int, journal: Journal, replicas: Answer | None) -> bool:
    """Whether all lines are answered; False after a signal."""
    stop = asyncio.Event()
    whole = asyncio.current_task()
    assert whole is not None

    def interrupt() -> None:
        if stop.is_set():
            whole.cancel()
            return
        stop.set()
        print("ending with the lines under way; once more to leave them", file=sys.stderr)

    on_signals(asyncio.get_running_loop(), interrupt)
    at_once = args.at_once or 2 * args.max_num_seqs * args.replicas
    try:
        async with _answering(args, at_once, replicas) as answer:
            with _progress(size, journal.count) as on_line:
                began = time.monotonic()
                tally = await run_batch(
                    source, journal, answer, at_once=at_once, window=args.window, stop=stop, on_line=on_line
                )
            print(f"{_rate(tally, began)} in {time.monotonic() - began:.2f} s", file=sys.stderr)
    except asyncio.CancelledError:
        return False
    return not stop.is_set()


@contextmanager
def _replicas(args: argparse.Namespace) -> Iterator[Answer | None]:
    """Those that Ray runs; None where the models are of this process."""
    if not args.ray:
        yield None
        return
    from candle_vllm.cli.replicas import ray_config, ray_running

    config = ray_config(args, args.replicas)
    with ray_running():
        from candle_vllm.ray import RayAnswering, replicas_handle

        try:
            handle = replicas_handle(config)
        except RuntimeError as error:
            raise CandleVllmError(f"the replicas cannot be started: {error}") from error
        yield RayAnswering(handle)


@asynccontextmanager
async def _answering(args: argparse.Namespace, at_once: int, replicas: Answer | None) -> AsyncIterator[Answer]:
    """The replicas where there are any, else the models of this process, the first of them loaded."""
    if replicas is not None:
        yield replicas
        return
    catalog = catalog_of(args)
    loader = EngineLoader(
        open_engine=lambda entry, progress: load_with(args, entry.config, progress), notation=notation(args)
    )
    fetch = loader.fetch if len(catalog) > 1 else None
    models = ModelManager(catalog, loader.load, fetch=fetch, queue_size=at_once)
    try:
        with loading_bars(str(catalog.default.config.model_path)) as loader.progress:
            await models.activate()
        yield Answering(OpenAIAdapter(models))
    finally:
        await models.aclose()


@contextmanager
def _progress(size: int, before: int) -> Iterator[OnLine]:
    """A bar on a terminal, a line now and then elsewhere. `size`: bytes of the input; `before`: lines done already."""
    if before:
        print(f"{before} lines are answered already", file=sys.stderr)
    began = time.monotonic()
    if not sys.stderr.isatty():
        yield _teller(size, began)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), redirect_stdout=False) as bars:
        task = bars.add_task("lines", total=size)

        def show(tally: Tally) -> None:
            bars.update(task, completed=tally.bytes, description=_rate(tally, began))

        yield show


def _teller(size: int, began: float) -> OnLine:
    said = began
    first: int | None = None

    def tell(tally: Tally) -> None:
        nonlocal said, first
        now = time.monotonic()
        if first is None:
            first = tally.bytes
        if now - said < _SAY:
            return
        said = now
        speed = (tally.bytes - first) / (now - began)
        left = f", {(size - tally.bytes) / speed / 60:.0f} minutes left" if speed > 0 else ""
        print(f"{_rate(tally, began)}, {100 * tally.bytes / size:.0f} %{left}", file=sys.stderr)

    return tell


def _rate(tally: Tally, began: float) -> str:
    seconds = max(time.monotonic() - began, 1e-9)
    errors = f", {tally.failed} errors" if tally.failed else ""
    return f"{tally.lines} lines, {tally.lines / seconds:.1f}/s{errors}"
