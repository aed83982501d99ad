"""A progress bar over several prompts. Alone imports rich, and only when a bar is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["prompts_bar"]


@contextmanager
def prompts_bar(total: int, shown: bool) -> Iterator[Callable[[], None] | None]:
    """A bar on standard error that the given function moves by one prompt; None when none is shown."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("prompts", total=total)
        yield lambda: bar.advance(task)
