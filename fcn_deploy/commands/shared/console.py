"""What a command says: the console, bars on a terminal, exit codes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Exit codes: a gate that failed or work that was done in part, bad input, Ctrl-C.
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


@cache
def _console() -> Console:
    from rich.console import Console

    # A file or pipe has no width of its own, and a table cut off at 80 columns is of no use there.
    # No markup: a path or a `pip install 'fcn-deploy[trt]'` may hold brackets.
    width = None if sys.stdout.isatty() else 160
    return Console(markup=False, highlight=False, soft_wrap=True, width=width)


class _ConsoleOnUse:
    """The console, made when it is first used: loading rich takes longer than `--help` should."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_console(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_console(), name, value)

    def __enter__(self) -> Console:
        return _console().__enter__()

    def __exit__(self, *error: Any) -> None:
        _console().__exit__(*error)


#: What commands print on.
console = cast("Console", _ConsoleOnUse())


def printable(text: str) -> str:
    """Spell out what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def silenced() -> Iterator[None]:
    """Print nothing inside: what is said there has been said, or is said elsewhere."""
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False


def new_table(title: str, words: Sequence[str], figures: Sequence[str] = ()) -> Table:
    """Return an empty table: columns of words, then columns of figures."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for head in words:
        table.add_column(head, overflow="fold")
    for head in figures:
        table.add_column(head, justify="right")
    return table


def print_table(table: Table) -> None:
    """Print a table; where the terminal is too narrow for its longest words, row by row.

    There rich would cut the words off: "wei… by med… fre…" for "weight by median frequency".
    """
    free = console.options.update(width=10_000)
    if console.measure(table, options=free).minimum <= console.width:
        console.print(table, soft_wrap=False)
        return
    if table.title is not None:
        console.print(table.title)
    heads = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = (f"{head} {cell}".strip() for head, cell in zip(heads, cells, strict=True))
        console.print(f"{first}: {', '.join(others)}")


@contextmanager
def counter(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar; what is yielded is called once per finished step of ``total``."""
    with bar(title) as show:
        done = itertools.count(1)
        yield lambda: show(next(done), total)


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar; what is yielded is called with the steps done and their total."""
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def build_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar of an engine's build; it is called with the phase, the steps done and all."""
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        console=console, transient=True, disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        task = shown.add_task("building", total=None)

        def on_progress(phase: str, done: int, steps: int) -> None:
            shown.update(task, description=phase, completed=done, total=steps or None)

        yield on_progress
