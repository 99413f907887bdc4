"""What the report's charts show of results."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.report.chart_layout import Chart
from fcn_deploy.report.charts import (
    NUM_STYLES,
    cdf_chart,
    layer_chart,
    runner_styles,
    speed_bars,
    stage_bars,
    throughput_charts,
    training_charts,
)
from fcn_deploy.results.bench_table import bench_groups
from fcn_deploy.results.format import runner_name
from fcn_deploy.results.read import read_results
from tests.report.parsed_page import page_of
from tests.result_files import (
    BASELINE,
    FAST,
    add_bench,
    bisect_document,
    described,
    metrics,
    rich_bench_document,
    row,
)


def charts_of_training(run: Run, count: int, **changes: Any) -> list[Chart]:
    write_json(run.metrics, {**metrics(count), **changes})
    training = read_results(run).training
    assert training is not None
    return list(training_charts(training))


def test_layers_are_charted_and_the_first_beyond_is_named(run: Run) -> None:
    write_json(run.bisect_folder / "b.json", bisect_document(layers=40, first=25))
    page = page_of(run)
    assert "First beyond the tolerance: /backbone/layer25/conv (Conv)" in page.text
    assert "relative error 0.0300, allowed 0.0001" in page.text
    assert "All 40 layers as a table" in page.text

    chart = layer_chart(read_results(run).bisections[0])
    assert chart.description.endswith("; the largest error is 0.0300")
    (curve,) = chart.curves
    assert [len(segment) for segment in curve.segments] == [39]  # the first has no error at all
    assert len(curve.dots) == 16
    tolerance, first = chart.rules
    assert (tolerance.vertical, first.vertical) == (False, True)
    assert first.label == "25: /backbone/layer25/conv"
    assert first.position == curve.dots[0][0]

    write_json(run.bisect_folder / "b.json", bisect_document(layers=9, first=99))
    assert "Every one of the 9 layers keeps its tolerance" in page_of(run).text
    chart = layer_chart(read_results(run).bisections[0])
    assert len(chart.rules) == 1
    # The tolerance, 1e-4, is no layer's error.
    assert chart.description.endswith(f"; the largest error is {1e-7 * 1.1**9:.2e}")


def test_layers_that_are_not_finite_break_the_curve(run: Run) -> None:
    document = bisect_document(layers=9, first=5)
    for layer in document["layers"][4:]:
        layer |= {"relative_error": None, "max_error": None, "finite": False}
    write_json(run.bisect_folder / "b.json", document)
    assert "its output is NaN or infinite" in page_of(run).text
    chart = layer_chart(read_results(run).bisections[0])
    (curve,) = chart.curves
    assert [len(segment) for segment in curve.segments] == [3]
    assert chart.description.endswith(f"is {1e-7 * 1.1**4:.2e}; 5 outputs are not finite")


def test_charts_of_a_group(run: Run) -> None:
    write_json(run.bench_folder / "a.json", rich_bench_document())
    results = read_results(run)
    styles = runner_styles(results)
    assert styles == {"ort fp32": "s1", "trt fp32 on cuda:0 (H200)": "s2", "plain export": "s0"}
    group = bench_groups(results.benches[0])[0]

    bars = speed_bars(group.rows, styles)
    assert [bar.name for bar in bars.bars] == [
        "trt fp32 on cuda:0 (H200)", "ort fp32", "plain export",
    ]  # fmt: skip
    # The GPU's row has no ratio: the plain export beside it ran on the CPU.
    assert [bar.value for bar in bars.bars] == ["2.50 ms", "20.0 ms · 2.00×", "40.0 ms"]
    for bar in bars.bars:
        assert bar.whisker is not None
        assert bar.whisker[0] <= bar.parts[0].x + bar.parts[0].width <= bar.whisker[1]

    cdf = cdf_chart(group.rows, styles)
    assert cdf is not None
    assert cdf.x_label == "ms, logarithmic"  # a factor of 16 between the medians
    assert [len(curve.dots) for curve in cdf.curves] == [4, 4, 4]
    assert "99% within" in cdf.description

    stages = stage_bars(group.rows)
    assert stages is not None
    assert [len(bar.parts) for bar in stages.bars] == [5, 5, 5]
    assert "decode: 0.500 ms" in stages.description

    over_batch = throughput_charts(results.benches[0], styles)
    assert len(over_batch) == 2
    assert [label for _, label in over_batch[0].x_ticks] == ["1", "4", "16"]
    one, four, sixteen = (x for x, _ in over_batch[0].x_ticks)
    assert four - one == pytest.approx(sixteen - four)

    few = [row for row in bench_groups(results.benches[0])[-1].rows if row.stages_ms]
    assert stage_bars(few) is None


@pytest.mark.parametrize(
    ("queries", "said", "unsaid", "share"),
    [(64, "90%", "95%", 0.9), (130, "95%", "99%", 0.95), (661, "95%", "99%", 0.95),
     (662, "99%", "100%", 0.99)],
)  # fmt: skip
def test_a_latency_curve_ends_where_its_queries_do(
    run: Run, queries: int, said: str, unsaid: str, share: float
) -> None:
    measured = [row(r.runner, *r.repeats_ms, queries=queries) for r in (BASELINE, FAST)]
    add_bench(run, *measured, name="a")
    results = read_results(run)
    chart = cdf_chart(results.benches[0].rows, runner_styles(results))
    assert chart is not None
    assert chart.description.count(f"{said} within") == 2
    assert f"{unsaid} within" not in chart.description
    bottom, top = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    for curve in chart.curves:
        end = bottom + share * (top - bottom)
        assert curve.segments[-1][-1][1] == pytest.approx(end, abs=0.1)
        assert curve.dots[-1] == curve.segments[-1][-1]


def test_every_backend_of_a_full_run_has_a_style_of_its_own(run: Run) -> None:
    backends = [f"backend{number}" for number in range(NUM_STYLES)]
    rows = [row(described(backend), 20.0, 21.0, 20.5, queries=90) for backend in backends]
    add_bench(run, BASELINE, *rows, name="a")
    results = read_results(run)
    (group,) = bench_groups(results.benches[0])
    styles = [runner_styles(results)[runner_name(row.runner)] for row in group.rows]
    assert len(set(styles)) == NUM_STYLES + 1

    html = page_of(run).html
    colours = dict(re.findall(r"\.(s\d+) \{ --c: var\(--(s\d+)\)", html))
    dashes = dict(re.findall(r"\.(s\d+) polyline[^{]*\{ stroke-dasharray: ([^;]*);", html))
    key = html.partition('<ul class="key">')[2].partition("</ul>")[0]
    markers = dict(
        re.findall(r'class="curve (s\d+)"><path class="line"[^>]*/>\s*(<.*?/>)', key, re.DOTALL)
    )
    assert set(markers) == set(colours) == set(styles)
    # Told apart by its marker without its colour; lines of one colour by their dashes.
    assert len(set(markers.values())) == len(styles)
    assert len({(colours[style], dashes.get(style)) for style in styles}) == len(styles)


def test_curves_break_where_a_figure_is_missing_and_one_epoch_is_a_dot(run: Run) -> None:
    loss, accuracy, miou = charts_of_training(run, 30)
    assert [curve.name for curve in loss.curves] == ["train"]
    assert [len(segment) for segment in accuracy.curves[1].segments] == [30]
    assert [len(segment) for segment in miou.curves[1].segments] == [28]
    assert len(miou.curves[1].dots) == 1  # the first epoch, alone before the gap
    assert [label for _, label in loss.x_ticks] == ["1", "5", "10", "15", "20", "25", "30"]

    seldom = metrics(epochs=30)
    for epoch in seldom["epochs"][1::2]:
        epoch |= {"val_pixel_accuracy": None, "val_mean_iou": None}
    for chart in charts_of_training(run, 30, epochs=seldom["epochs"], best_epoch=29)[1:]:
        train, val = chart.curves
        assert [len(segment) for segment in train.segments] == [30]
        assert [len(segment) for segment in val.segments] == [15]  # joined, not 15 lone dots

    lone = charts_of_training(run, 1)
    assert all(len(curve.dots) == 1 for chart in lone for curve in chart.curves)
    # five dots, and a marker for each of the two curves in the keys of two charts
    assert page_of(run).tags.count("circle") == 5 + 2 * 2
