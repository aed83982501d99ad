"""What a measurement shows: a heading, tables, a bar meanwhile, its result as JSON. Must not know what is measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from candle_vllm.engine import InferenceEngine

__all__ = ["Advance", "Rows", "about_engine", "bar", "heading", "per_second", "show"]

Rows = list[tuple[str, ...]]


def about_engine(engine: InferenceEngine) -> dict[str, Any]:
    """What was measured, for the JSON."""
    from candle_vllm import __version__

    info = engine.model_info
    facts = (
        "name",
        "architecture",
        "dtype",
        "kv_dtype",
        "device",
        "threads",
        "weight_bytes",
        "kv_bytes",
        "step_tokens",
    )
    return {"version": __version__, "model": {name: getattr(info, name) for name in facts}}


def heading(about: dict[str, Any]) -> str:
    """Which model, and where."""
    model = about["model"]
    return f"{model['name']}: {model['dtype']} weights, {model['device']}, {model['threads']} threads"


def per_second(value: float) -> str:
    """A rate with as many digits as count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def show(
    args: argparse.Namespace, title: str, tables: list[tuple[str, tuple[str, ...], Rows]], result: dict[str, Any]
) -> None:
    """The tables on standard output, or on standard error where the JSON takes its place."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=args.json == "-", highlight=False)
    console.print(title, markup=False)
    for caption, heads, rows in tables:
        if not rows:
            continue
        table = Table(title=caption, title_justify="left", show_header=any(heads))
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place or heads[0] else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(table)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    elif args.json is not None:
        Path(args.json).write_text(text, encoding="utf-8")


class Advance:
    """Moves a progress bar: one step when called, or to a place."""

    def __init__(self, move: Callable[..., None] | None) -> None:
        self._move = move
        self._done = 0

    def name(self, text: str) -> None:
        """Say what is under way."""
        if self._move is not None:
            self._move(self._done, None, text)

    def __call__(self) -> None:
        """One more is done."""
        self._done += 1
        self.to(self._done, None)

    def to(self, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` are done."""
        if self._move is not None:
            self._move(done, total)


@contextmanager
def bar(name: str, total: int | None) -> Iterator[Advance]:
    """A bar on standard error where that is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield Advance(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        task = bars.add_task(name, total=total)

        def move(done: int | None, whole: int | None, text: str | None = None) -> None:
            bars.update(task, completed=done, total=whole or total, description=text)

        yield Advance(move)
