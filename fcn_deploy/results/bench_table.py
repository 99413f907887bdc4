"""The bench table, said once: its columns and what stands in each cell, as text.

    Bench ──▶ bench_groups ──▶ BenchGroup.table ──┬─▶ terminal   fcn_deploy.commands.bench_tables
              stage_table, cold_start_table ──────┼─▶ Markdown   benchmarks/markdown_page.py
                                                  └─▶ HTML       report/templates/speed.html.j2

A new column is added in ``BenchGroup._columns`` alone.  Rows are ranked only within a group: one
interleaved run on one machine, the same workload (see ``fcn_deploy.results.workload``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from fcn_deploy.results.bench import ALL_STAGES, Bench, BenchRow
from fcn_deploy.results.conditions import ColdStart
from fcn_deploy.results.format import number, percent, runner_name, settings_words, verdict_words
from fcn_deploy.results.ranking import notes_on_repeats, speedup, strongest_pytorch
from fcn_deploy.results.ratio import TOO_FEW, Ratio
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import DEVICE, END_TO_END, HOST, SCENARIOS

#: What is in the time, in the order of groups: what a user of the model waits for comes first.
TIER_WORDS = {
    END_TO_END: "encoded images on disk → masks in memory",
    HOST: "images in memory → masks in memory",
    DEVICE: "computing alone, by the device's own events",
}
#: Percentiles of the latency that have a column where some row has queries enough.
_PERCENTILES = ("p90", "p95", "p99")
#: What the masks are compared with, by :func:`mask_label`.
MASK_REFERENCE = "torch fp32"
_ABSENT = "–"


@dataclass(frozen=True)
class Column:
    """A column's head.

    Attributes:
        title: with the unit.
        rank: 0 is always shown; where space is short, columns of the highest rank go first.
        is_figure: set to the right, never broken into lines.
    """

    title: str
    rank: int = 0
    is_figure: bool = True


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: the figure or words.
        spread: least and largest of what the figure is the median of, or empty.
        mark: what a page may set it apart for.
    """

    text: str
    spread: str = ""
    mark: Literal["", "tie", "invalid"] = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.spread}]" if self.spread else self.text


@dataclass(frozen=True)
class TableRow:
    """One line of a table.

    Attributes:
        cells: one for each column.
        is_baseline: whether it is the plain export's.
        problem: why there are no figures, or empty.
    """

    cells: tuple[Cell, ...]
    is_baseline: bool
    problem: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and cells, for whoever prints them.

    Attributes:
        title: what it shows, in one line.
        columns: left to right.
        rows: top to bottom.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]

    def up_to(self, rank: int) -> Table:
        """Return the table without the columns beyond a rank."""
        kept = [place for place, column in enumerate(self.columns) if column.rank <= rank]
        return replace(
            self,
            columns=tuple(self.columns[place] for place in kept),
            rows=tuple(
                replace(row, cells=tuple(row.cells[place] for place in kept)) for row in self.rows
            ),
        )


# -- the rows that may be set side by side ------------------------------------------------------


@dataclass(frozen=True)
class BenchGroup:
    """Rows that may be set side by side, fastest first.

    Attributes:
        rows: by median time.
        references: of other networks, measured apart under the same conditions; not ranked.
        masks: as in :class:`Bench`.
        leads: whether it is the first of its scenario.
    """

    rows: tuple[BenchRow, ...]
    references: tuple[BenchRow, ...] = ()
    masks: Mapping[str, float] | None = field(default=None, hash=False)
    leads: bool = True

    @property
    def title(self) -> str:
        """Scenario, tier, batch, size."""
        first = self.rows[0]
        height, width = first.size
        return f"{first.scenario}, {first.tier}, batch {first.batch_size}, {height}×{width}"

    @property
    def about(self) -> str:
        """What is in the time."""
        return TIER_WORDS.get(self.rows[0].tier, "")

    @property
    def in_short(self) -> str:
        """The fastest row that counts, for a heading; or why none is named."""
        valid = [row for row in self.rows if row.is_valid]
        if not valid:
            return "no row counts: MLPerf LoadGen calls each INVALID"
        best, *others = valid
        speed = f"{number(best.images_per_s)} images/s"
        verdicts = {speedup(best, other).verdict for other in others}
        if None in verdicts:
            return f"{TOO_FEW}, {speed}"
        if verdicts - {"faster"}:
            return f"no clear first, {speed}"
        return f"fastest: {runner_name(best.runner)}, {speed}"

    @property
    def ties(self) -> tuple[tuple[str, str], ...]:
        """Pairs that are too close to call; the baseline's stand in its column."""
        others = [row for row in self.rows if not row.is_baseline]
        return tuple(
            (runner_name(row.runner), runner_name(other.runner))
            for place, row in enumerate(others)
            for other in others[place + 1 :]
            if speedup(row, other).verdict == "tie"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences: how the ratios are to be read, and which PyTorch row they are against."""
        notes = list(notes_on_repeats(self.rows))
        names = dict.fromkeys(
            runner_name(found.runner)
            for row in self.rows
            if (found := strongest_pytorch(row, self.rows)) is not None
        )
        if names:
            notes.append(f"× PyTorch: over {' and '.join(names)}, the fastest PyTorch row here.")
        return tuple(notes)

    @property
    def table(self) -> Table:
        """The table of the group, the rows of other networks last."""
        columns = self._columns()
        return Table(
            title=self.title,
            columns=tuple(column for column, _ in columns),
            rows=tuple(
                TableRow(tuple(cell(row) for _, cell in columns), row.is_baseline)
                for row in (*self.rows, *self.references)
            ),
        )

    def _columns(self) -> list[tuple[Column, Callable[[BenchRow], Cell]]]:
        """Return the columns that this group needs, each with what a row has there."""
        shown = (*self.rows, *self.references)
        columns: list[tuple[Column, Callable[[BenchRow], Cell]]] = [
            (Column("runner", is_figure=False), lambda row: Cell(runner_name(row.runner))),
            (Column("ms, median [spread]"), _median_cell),
            (Column("images/s"), lambda row: Cell(number(row.images_per_s))),
        ]
        if any(strongest_pytorch(row, self.rows) is not None for row in self.rows):
            columns.append((Column("× PyTorch"), self._pytorch_cell))
        columns.append((Column("× plain export"), self._ratio_cell))
        if self.masks is not None:
            columns.append((Column("masks agree", rank=1), self._mask_cell))
        if any(_bound(row) is not None for row in shown):
            columns.append((Column("p99 bound, ms", rank=1), lambda row: Cell(number(_bound(row)))))
        columns.append((Column("LoadGen", rank=1, is_figure=False), _verdict_cell))
        for name in _PERCENTILES:
            if any(name in row.latency_ms for row in shown):
                column = Column(f"{name}, ms", rank=3)
                columns.append((column, partial(_percentile_cell, name=name)))
        if any(row.energy_j_per_image is not None for row in shown):
            energy = Column("J/image", rank=2)
            columns.append((energy, lambda row: Cell(number(row.energy_j_per_image))))
        return [
            *columns,
            (Column("library", rank=2, is_figure=False), lambda row: Cell(row.runner.library)),
            (Column("CV", rank=3), lambda row: Cell(f"{row.cv:.1%}")),
            (Column("queries", rank=3), lambda row: Cell(f"{row.queries:,}")),
        ]

    def _ratio_cell(self, row: BenchRow) -> Cell:
        ratio = row.over_baseline
        if row in self.references:
            return Cell("not ranked")
        if row.is_baseline:
            return Cell("1")
        if ratio is None:
            return Cell("no baseline")
        return ratio_cell(ratio)

    def _pytorch_cell(self, row: BenchRow) -> Cell:
        if row in self.references:
            return Cell("not ranked")
        strongest = strongest_pytorch(row, self.rows)
        if strongest is None:
            return Cell(_ABSENT)
        return Cell("1") if row is strongest else ratio_cell(speedup(row, strongest))

    def _mask_cell(self, row: BenchRow) -> Cell:
        if row in self.references:
            return Cell("another network")
        label = mask_label(row.runner)
        if label == MASK_REFERENCE:
            return Cell("the reference")
        return Cell(percent((self.masks or {}).get(label)))


def bench_groups(bench: Bench) -> list[BenchGroup]:
    """Sort a bench's rows into the groups within which they may be compared."""
    groups: dict[Any, list[BenchRow]] = {}
    for row in sorted(bench.rows, key=_place):
        groups.setdefault(row.workload, []).append(row)
    led: set[str] = set()
    found = []
    for rows in groups.values():
        scenario, place = rows[0].scenario, _place(rows[0])
        found.append(
            BenchGroup(
                rows=tuple(sorted(rows, key=lambda row: row.median_ms)),
                references=tuple(row for row in bench.references if _place(row) == place),
                masks=bench.masks,
                leads=scenario not in led,
            )
        )
        led.add(scenario)
    return found


def mask_label(runner: RunnerDescription) -> str:
    """Return the key of a runner in :attr:`Bench.masks`: backend and precision."""
    return f"{runner.backend} {runner.precision}"


def ratio_cell(ratio: Ratio) -> Cell:
    """Return a ratio as a figure, or as what it is instead of one: a tie, or no verdict."""
    spread = "–".join(map(number, ratio.shown))
    if ratio.verdict is None:
        return Cell("no verdict", spread)
    if ratio.verdict == "tie":
        return Cell("tie", spread, "tie")
    return Cell(number(ratio.median), spread)


def valid_means(bench: Bench) -> str:
    """Say what LoadGen was asked for in a bench; empty where that is not known."""
    return settings_words(row.loadgen.settings for row in bench.rows if row.loadgen is not None)


def _place(row: BenchRow) -> tuple[Any, ...]:
    tiers = tuple(TIER_WORDS)
    scenario = SCENARIOS.index(row.scenario) if row.scenario in SCENARIOS else len(SCENARIOS)
    tier = tiers.index(row.tier) if row.tier in tiers else len(tiers)
    return scenario, row.scenario, tier, row.tier, row.size, row.batch_size


def _bound(row: BenchRow) -> float | None:
    return None if row.loadgen is None else row.loadgen.target_p99_ms


def _median_cell(row: BenchRow) -> Cell:
    fastest, slowest = row.spread_ms
    return Cell(number(row.median_ms), f"{number(fastest)}–{number(slowest)}")


def _percentile_cell(row: BenchRow, name: str) -> Cell:
    return Cell(number(row.latency_ms[name]) if name in row.latency_ms else "too few")


def _verdict_cell(row: BenchRow) -> Cell:
    return Cell(verdict_words(row), mark="" if row.is_valid else "invalid")


# -- where the time goes, and what comes before it ----------------------------------------------


def stage_table(rows: Sequence[BenchRow]) -> Table | None:
    """Return where the time of the end-to-end rows goes; None where no row tells its stages."""
    staged = [(row, row.stages_ms) for row in rows if row.stages_ms is not None]
    if not staged:
        return None
    columns = [Column(stage) for stage in ALL_STAGES]
    return Table(
        title="mean ms per query by stage (latencies end before `write`)",
        columns=(
            Column("runner", is_figure=False), *columns,
            Column("sum"), Column("wall"), Column("sum − wall", rank=1),
        ),
        rows=tuple(
            _plain_row(
                row.runner,
                *(number(stages[stage]) for stage in ALL_STAGES),
                number(sum(stages.values())),
                number(row.wall_ms),
                stage_difference(row),
            )
            for row, stages in staged
        ),
    )  # fmt: skip


def stage_difference(row: BenchRow) -> str:
    """Return by how much the stages' sum misses the wall time, in percent of the latter."""
    if row.stages_ms is None or not row.wall_ms or row.wall_ms < 0:
        return "n/a"
    missed = round(100 * (sum(row.stages_ms.values()) / row.wall_ms - 1), 1)
    return f"{missed + 0.0:+.1f}%"  # 0.0 takes the sign of -0.0


def cold_start_table(started: Sequence[ColdStart]) -> Table | None:
    """Return what each backend costs before its first mask; None where none was started."""
    if not started:
        return None
    size, largest = ("×".join(map(str, shape)) for shape in (started[0].size, started[0].largest))
    return Table(
        title=(
            "each backend in a process of its own, from its start to its first mask, of a picture "
            f"of {size} pixels; memory with batches of {largest}"
        ),
        columns=(
            Column("runner", is_figure=False), Column("cold start, ms"),
            Column("of that, opening"), Column("first picture"), Column("peak memory, MiB"),
            Column("GPU memory, MiB", rank=1), Column("build, s", rank=1),
        ),
        rows=tuple(
            _plain_row(
                start.runner,
                number(start.cold_start_ms),
                number(start.open_ms),
                number(start.first_run_ms),
                number(start.peak_rss_mib),
                *(
                    _ABSENT if figure is None else number(figure)
                    for figure in (start.device_memory_mib, start.build_seconds)
                ),
                problem=start.error or "",
            )
            for start in started
        ),
    )  # fmt: skip


def _plain_row(runner: RunnerDescription, *figures: str, problem: str = "") -> TableRow:
    cells = (runner_name(runner), *figures)
    return TableRow(tuple(map(Cell, cells)), runner.is_baseline, problem)
