"""Results → charts: which figures are drawn, against what, in which words.

    training ─▶ loss, accuracy, mIoU       a bench group ─▶ bars with spread, CDF, stages
    bisection ─▶ error by layer            a bench file ──▶ throughput over batch

Where things stand is :mod:`fcn_deploy.report.chart_layout`'s; colours, dashes and markers are the
page's, by key: ``s0`` is the plain export, ``s1`` … ``s12`` are backends, ``stage-decode`` … are
stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fcn_deploy.report.chart_layout import (
    LABELLED_FRAME,
    WIDE_FRAME,
    Axis,
    Bar,
    BarChart,
    Chart,
    Rule,
    Series,
    bar_chart,
    line_chart,
)
from fcn_deploy.report.ticks import log_ticks, round_ticks, whole_ticks
from fcn_deploy.results.bench import ALL_STAGES, Bench, BenchRow
from fcn_deploy.results.bench_table import stage_difference
from fcn_deploy.results.bisect import Bisection
from fcn_deploy.results.format import number, runner_name, score
from fcn_deploy.results.results import Results
from fcn_deploy.results.scenarios import OFFLINE, SERVER, SINGLE_STREAM
from fcn_deploy.results.training import Training

#: So many backends have a style of their own on one page, then the styles come again.  Two of them
#: share a colour at most, and these two differ in dashes and marker.
NUM_STYLES = 12
BASELINE_STYLE = "s0"
#: Percentiles that are marked on a latency distribution, where a row has queries enough for them.
MARKED_PERCENTILES = (50, 90, 95, 99)
#: Beyond this factor between the fastest and the slowest query, the axis is logarithmic.
_WIDE_RANGE = 6
#: Letters that fit beside a bar's figure, beside a sum of stages, and beside a curve's end.
_BAR_LETTERS, _STAGE_LETTERS, _CURVE_LETTERS = 30, 20, 15


def runner_styles(results: Results) -> dict[str, str]:
    """Return name → style of every runner that was measured, the same in every chart."""
    names = dict.fromkeys(
        runner_name(row.runner)
        for bench in results.benches
        for row in bench.rows
        if not row.is_baseline
    )
    styles = {name: f"s{index % NUM_STYLES + 1}" for index, name in enumerate(names)}
    baselines = [r.runner for b in results.benches for r in b.rows if r.is_baseline]
    return styles | {runner_name(runner): BASELINE_STYLE for runner in baselines}


# -- speed --------------------------------------------------------------------------------------


def speed_bars(rows: Sequence[BenchRow], styles: Mapping[str, str]) -> BarChart:
    """Lay out the rows of a group: median time of a query, whiskers to the extreme repeats."""
    bars = [
        Bar(
            _short(runner_name(row.runner), _BAR_LETTERS),
            f"{_figure(row)}{_times(row)}",
            ((styles[runner_name(row.runner)], row.median_ms, _figure(row)),),
            (min(row.spread_ms[0], row.median_ms), max(row.spread_ms[1], row.median_ms)),
        )
        for row in rows
    ]
    longest = max(bar.whisker[1] for bar in bars if bar.whisker)
    return bar_chart(
        "Median time and its spread",
        "; ".join(f"{bar.name}: {bar.value}" for bar in bars),
        bars,
        Axis(tuple(round_ticks(0, longest)), _plain),
        x_label="ms per query",
    )


def _figure(row: BenchRow) -> str:
    if row.scenario in (OFFLINE, SERVER):
        return f"{number(row.images_per_s)} images/s"
    return f"{number(row.median_ms)} ms"


def _times(row: BenchRow) -> str:
    ratio = row.over_baseline
    if row.is_baseline or ratio is None:
        return ""
    if ratio.verdict is None:
        return " · no verdict"
    if ratio.verdict == "tie":
        return " · tie"
    return f" · {number(ratio.median)}×"


def cdf_chart(rows: Sequence[BenchRow], styles: Mapping[str, str]) -> Chart | None:
    """Lay out the share of queries answered within a time; None where no row has its latencies.

    A curve ends at the highest percentile that its number of queries allows.
    """
    known = [
        (row, row.cdf_ms[: marks[-1] + 1], marks)
        for row in rows
        if row.cdf_ms is not None and (marks := _allowed_percentiles(row))
    ]
    if not known:
        return None
    fastest = min(latencies[0] for _, latencies, _ in known)
    slowest = max(latencies[-1] for _, latencies, _ in known)
    wide = fastest > 0 and slowest / fastest > _WIDE_RANGE
    ticks = log_ticks(fastest, slowest) if wide else round_ticks(fastest, slowest)
    return line_chart(
        "Queries answered in time",
        "; ".join(f"{runner_name(row.runner)}: {_within(row, marks)}" for row, _, marks in known),
        [
            Series(
                runner_name(row.runner),
                styles[runner_name(row.runner)],
                tuple((ms, index / 100) for index, ms in enumerate(latencies)),
                marked=frozenset(marks),
            )
            for row, latencies, marks in known
        ],
        Axis(tuple(ticks), _plain, logarithmic=wide),
        Axis((0, 0.25, 0.5, 0.75, 1), "{:.0%}".format),
        x_label="ms, logarithmic" if wide else "ms",
    )


def _allowed_percentiles(row: BenchRow) -> list[int]:
    """Return the percentiles for which the row has queries enough, ascending."""
    return [mark for mark in MARKED_PERCENTILES if f"p{mark}" in row.latency_ms]


def _within(row: BenchRow, marks: Sequence[int]) -> str:
    return ", ".join(
        f"{'half' if mark == 50 else f'{mark}%'} within {number(row.latency_ms[f'p{mark}'])} ms"
        for mark in marks
    )


def throughput_charts(bench: Bench, styles: Mapping[str, str]) -> list[Chart]:
    """Lay out images per second over the batch size, where there is more than one."""
    alike: dict[tuple[str, str, tuple[int, int]], list[BenchRow]] = {}
    for row in bench.rows:
        if row.batch_size > 0:
            alike.setdefault((row.scenario, row.tier, row.size), []).append(row)
    return [
        _throughput_chart(rows, styles)
        for rows in alike.values()
        if len({row.batch_size for row in rows}) > 1
    ]


def _throughput_chart(rows: Sequence[BenchRow], styles: Mapping[str, str]) -> Chart:
    batches = sorted({row.batch_size for row in rows})
    by_runner: dict[str, list[BenchRow]] = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        by_runner.setdefault(runner_name(row.runner), []).append(row)
    scenario, (height, width) = rows[0].scenario, rows[0].size
    said = "" if scenario == SINGLE_STREAM else f"{scenario}, "
    return line_chart(
        f"Images/s over batch: {said}{rows[0].tier}, {height}×{width}",
        "; ".join(
            f"{name}: "
            + ", ".join(f"{number(r.images_per_s)} images/s at batch {r.batch_size}" for r in ours)
            for name, ours in by_runner.items()
        ),
        [
            Series(
                _short(_without_device(ours[0]), _CURVE_LETTERS),
                styles[name],
                tuple((row.batch_size, row.images_per_s) for row in ours),
            )
            for name, ours in by_runner.items()
        ],
        Axis(tuple(batches), "{:.0f}".format, logarithmic=True),
        Axis(tuple(round_ticks(0, max(row.images_per_s for row in rows))), _plain),
        x_label="batch",
        frame=LABELLED_FRAME,
    )


def _without_device(row: BenchRow) -> str:
    name = runner_name(row.runner)
    return name if row.is_baseline else name.partition(" on ")[0]


def stage_bars(rows: Sequence[BenchRow]) -> BarChart | None:
    """Lay out where the time of a query goes; None where no row tells its stages."""
    known = [(row, row.stages_ms) for row in rows if row.stages_ms is not None]
    if not known:
        return None
    bars = [
        Bar(
            _short(runner_name(row.runner), _STAGE_LETTERS),
            stage_words(row),
            tuple(
                (
                    stage_style(stage),
                    max(0.0, stages[stage]),
                    f"{stage}: {number(stages[stage])} ms",
                )
                for stage in ALL_STAGES
            ),
        )
        for row, stages in known
    ]
    longest = max(sum(max(0.0, ms) for ms in stages.values()) for _, stages in known)
    return bar_chart(
        "Where the time goes",
        "; ".join(
            f"{bar.name}: {', '.join(label for _, _, label in bar.parts)}; {bar.value}"
            for bar in bars
        ),
        bars,
        Axis(tuple(round_ticks(0, longest)), _plain),
        x_label="ms per query",
    )


def stage_style(stage: str) -> str:
    """Return the key of a stage's colour on the page."""
    return f"stage-{stage.replace(' ', '-')}"


def stage_words(row: BenchRow) -> str:
    """Say how the stages' sum compares with the wall time, taken by a watch of its own."""
    if row.stages_ms is None:
        return ""
    total = sum(row.stages_ms.values())
    if not row.wall_ms or row.wall_ms < 0:
        return f"Σ {number(total)} ms"
    return f"Σ {number(total)} ms, wall {number(row.wall_ms)} ({stage_difference(row)})"


# -- layers -------------------------------------------------------------------------------------


def layer_chart(bisection: Bisection) -> Chart:
    """Lay out the relative error of each layer, in the order of computing."""
    layers, first = bisection.layers, bisection.first
    errors = [layer.relative_error for layer in layers]
    known = [error for error in errors if error is not None]
    shown = [bisection.tolerance, *(error for error in known if error > 0)]
    rules = [Rule(bisection.tolerance, False, f"tolerance {bisection.tolerance:g}", "tolerance")]
    found = "no layer is beyond the tolerance"
    if first is not None:
        place = layers.index(first) + 1
        rules.append(Rule(place, True, _short(f"{place}: {first.name}", 40), "first"))
        found = f"the first layer beyond the tolerance is number {place}, {first.name}"
    return line_chart(
        "Relative RMS error of each layer’s output",
        f"{len(layers)} layers; {found}; {_largest(known, len(layers))}",
        [
            Series(
                "relative error",
                "layers",
                tuple(enumerate(errors, start=1)),
                marked=frozenset(i for i, layer in enumerate(layers) if layer.beyond),
            )
        ],
        Axis(tuple(whole_ticks(1, len(layers))), str),
        Axis(tuple(log_ticks(min(shown), max(shown))), "{:.0e}".format, logarithmic=True),
        x_label="layer, in the order of computing",
        rules=rules,
        frame=WIDE_FRAME,
    )


def _largest(errors: Sequence[float], layers: int) -> str:
    broken = layers - len(errors)
    said = f"; {broken} output{'s are' if broken != 1 else ' is'} not finite" if broken else ""
    return f"the largest error is {number(max(errors, default=None))}{said}"


# -- the training curves ------------------------------------------------------------------------


def training_charts(training: Training) -> list[Chart]:
    """Lay out loss, pixel accuracy and mean IoU over the epochs."""
    epochs = training.epochs
    # Between two validations a curve goes straight on; where one gave no figure, it breaks.
    validated = [e for e in epochs if (e.val_pixel_accuracy, e.val_mean_iou) != (None, None)]
    validated = validated or list(epochs)
    return [
        _epoch_chart("Loss", {"train": [(e.epoch, e.loss) for e in epochs]}, shares=False),
        _epoch_chart(
            "Pixel accuracy",
            {
                "train": [(e.epoch, e.train_pixel_accuracy) for e in epochs],
                "val": [(e.epoch, e.val_pixel_accuracy) for e in validated],
            },
            shares=True,
        ),
        _epoch_chart(
            "Mean IoU",
            {
                "train": [(e.epoch, e.train_mean_iou) for e in epochs],
                "val": [(e.epoch, e.val_mean_iou) for e in validated],
            },
            shares=True,
        ),
    ]


def _epoch_chart(
    title: str,
    figures: Mapping[str, Sequence[tuple[int, float | None]]],
    *,
    shares: bool,
) -> Chart:
    numbers = [epoch for epoch, _ in figures["train"]]
    known = [value for points in figures.values() for _, value in points if value is not None]
    # The axis holds 0, and all of a share; more where a figure lies beyond.
    top = 1.0 if shares else max([0.0, *known]) or 1.0
    return line_chart(
        title,
        "; ".join(
            _ends(title, name, [value for _, value in points], score if shares else _plain)
            for name, points in figures.items()
        ),
        [Series(name, name, tuple(points)) for name, points in figures.items()],
        Axis(tuple(whole_ticks(numbers[0], numbers[-1])), str),
        Axis(tuple(round_ticks(min([0.0, *known]), top)), "{:.0%}".format if shares else _plain),
        x_label="epoch",
    )


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _ends(
    title: str, name: str, values: Sequence[float | None], text: Callable[[float | None], str]
) -> str:
    return f"{title} ({name}) from {text(values[0])} to {text(values[-1])}"
