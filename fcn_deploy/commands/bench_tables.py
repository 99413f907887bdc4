"""Its tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fcn_deploy.commands.shared.console import console
from fcn_deploy.results.bench import OFFLINE, SERVER, SINGLE_STREAM

if TYPE_CHECKING:
    from fcn_deploy.bench.rows import Row


def print_rows(rows: Sequence[Row], scenario: str) -> None:
    """Print the measured rows, the rows that may be ranked side by side."""
    from rich.table import Table

    from fcn_deploy.bench.rows import speedup
    from fcn_deploy.results.format import settings_words
    from fcn_deploy.results.workload import baseline_of

    titles = {
        SINGLE_STREAM: "latency of one query at a time",
        OFFLINE: "all pictures at once: time per query at that throughput",
        SERVER: "queries at random moments: time per query at the highest valid rate",
    }
    table = Table(title=f"{scenario}: {titles[scenario]}", title_justify="left")
    for column in ("tier", "N×H×W", "backend", "precision", "device"):
        table.add_column(column)
    for column in ("ms (median)", "spread", "p90", "images/s", "× baseline"):
        table.add_column(column, justify="right")
    table.add_column("LoadGen")
    for row in sorted(rows, key=lambda row: (row.tier, row.batch_size, row.size)):
        baseline = baseline_of(row, rows)
        if baseline is None:
            ratio = "not measured"
        elif baseline is row:
            ratio = "1"
        else:
            times = speedup(row, baseline)
            ratio = f"{times.median:.2f} ({times.low:.2f}-{times.high:.2f})"
            ratio += " tie" if times.tie else ""
        fastest, slowest = row.spread_ms
        table.add_row(
            row.tier,
            f"{row.batch_size}×{row.size[0]}×{row.size[1]}",
            row.runner.backend,
            row.runner.precision,
            row.runner.device,
            f"{row.median_ms:.4g}",
            f"{fastest:.4g}-{slowest:.4g}",
            _p90(row),
            f"{row.images_per_s:.4g}",
            ratio,
            row.verdict or "timed loop",
        )
    console.print(table, soft_wrap=False)
    if meaning := settings_words(row.settings for row in rows):
        console.print(f"LoadGen: {meaning}")
    for row in rows:
        for problem in dict.fromkeys(p for verdict in row.verdicts for p in verdict.problems):
            console.print(f"{row.label}: INVALID: {problem}")


def _p90(row: Row) -> str:
    """Return LoadGen's p90, which early stopping keeps on the safe side; else the plain one."""
    if row.early_stopping_ms is not None:
        return f"≤ {row.early_stopping_ms:.4g}"
    return f"{row.latency_ms['p90']:.4g}" if "p90" in row.latency_ms else ""


def print_stages(rows: Sequence[Row]) -> None:
    """Print where the time of the end-to-end rows goes, stage by stage."""
    from rich.table import Table

    staged = [row for row in rows if row.stages_ms is not None]
    if not staged:
        return
    table = Table(
        title="end to end by stage, mean ms per query (the latencies above end before `write`)",
        title_justify="left",
    )
    for column in ("N×H×W", "backend", "precision"):
        table.add_column(column)
    for column in (*(staged[0].stages_ms or ()), "sum", "wall"):
        table.add_column(column, justify="right")
    for row in staged:
        stages, wall = row.stages_ms or {}, row.wall_ms or 0.0
        total = sum(stages.values())
        table.add_row(
            f"{row.batch_size}×{row.size[0]}×{row.size[1]}",
            row.runner.backend,
            row.runner.precision,
            *(f"{ms:.2f}" for ms in stages.values()),
            f"{total:.2f}",
            f"{wall:.2f} ({total / wall - 1:+.1%})",
        )
    console.print(table, soft_wrap=False)


def print_cold_starts(started: Sequence[dict[str, Any]]) -> None:
    """Print what each backend costs before its first mask."""
    from rich.table import Table

    if not started:
        return
    first, largest = ("×".join(map(str, started[0][name])) for name in ("size", "largest"))
    title = f"a process of its own for each backend: first mask of {first}, memory of {largest}"
    table = Table(title=title, title_justify="left")
    for column in ("backend", "precision"):
        table.add_column(column)
    names = ("cold_start_ms", "open_ms", "first_run_ms", "peak_rss_mib", "device_memory_mib")
    for column in ("cold start ms", "open ms", "first run ms", "peak memory MiB", "GPU MiB"):
        table.add_column(column, justify="right")
    table.add_column("build s", justify="right")
    for entry in started:
        figures = [entry[name] for name in names]
        built = entry["build_seconds"]
        table.add_row(
            entry["runner"]["backend"],
            entry["runner"]["precision"],
            *("" if figure is None else f"{figure:.0f}" for figure in figures),
            "" if built is None else f"{built:.1f}",
        )
    console.print(table, soft_wrap=False)
    for entry in started:
        if entry["error"]:
            console.print(f"no cold start of {entry['runner']['backend']}: {entry['error']}")
