"""The tables of a bench on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console

if TYPE_CHECKING:
    from fcn_deploy.results.bench import Bench
    from fcn_deploy.results.bench_table import Table

#: Letters to which words are broken into lines before a column is left out.
_WORDS_WIDTH = 24


def print_bench(bench: Bench) -> None:
    """Print what was measured: rows that may be ranked, stages, cold starts, warnings."""
    from fcn_deploy.results.bench_table import (
        bench_groups,
        cold_start_table,
        stage_table,
        valid_means,
    )

    for group in bench_groups(bench):
        print_bench_table(group.table, f"{group.title} ({group.about})")
        for sentence in group.notes:
            console.print(sentence)
        for one, other in group.ties:
            console.print(f"too close to call: {one} and {other}")
        if (stages := stage_table(group.rows)) is not None:
            print_bench_table(stages, stages.title)
    if meaning := valid_means(bench):
        console.print(f"LoadGen: {meaning}")
    if (starts := cold_start_table(bench.cold_starts)) is not None:
        print_bench_table(starts, starts.title)
        for row in starts.rows:
            if row.problem:
                console.print(f"no cold start of {row.cells[0]}: {row.problem}")
    for warning in bench.conditions.warnings:
        console.print(f"warning: {warning}")


def print_bench_table(table: Table, title: str) -> None:
    """Print a table; on a narrow terminal its least needed columns are left out."""
    from rich import box
    from rich.table import Table as RichTable

    fitting = _fitting(table, console.width)
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in fitting.columns:
        if column.is_figure:
            shown.add_column(column.title, justify="right")
        else:
            shown.add_column(column.title, overflow="fold")
    for row in fitting.rows:
        shown.add_row(*map(str, row.cells))
    console.print(shown, soft_wrap=False)


def _fitting(table: Table, width: int) -> Table:
    ranks = sorted({column.rank for column in table.columns}, reverse=True)
    for rank in ranks:
        fitting = table.up_to(rank)
        if _width(fitting) <= width:
            return fitting
    return table.up_to(0)


def _width(table: Table) -> int:
    """Return how many letters a table is wide, its words broken into lines."""
    widths = []
    for place, column in enumerate(table.columns):
        cells = [str(row.cells[place]) for row in table.rows]
        longest = max(map(len, (column.title, *cells)))
        widths.append(longest if column.is_figure else min(longest, _WORDS_WIDTH))
    return sum(width + 2 for width in widths)
