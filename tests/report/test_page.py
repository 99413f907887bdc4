"""The report: read back with an HTML parser, from documents that the real rooms made."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.bench import inputs, scenarios
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.measure import BenchPlan, measure
from fcn_deploy.core.errors import ArtifactError, InputError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.masks import write_picture
from fcn_deploy.machine.description import describe_machine, describe_versions
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
from fcn_deploy.report.page import data_uri, write_merged_report, write_report
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.report.tables import distance_words, margin_words, most_flips
from fcn_deploy.results import bench as bench_results
from fcn_deploy.results.bench_table import bench_groups
from fcn_deploy.results.format import runner_name
from fcn_deploy.results.read import read_files, read_results
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.result_files import (
    BASELINE,
    FAST,
    LEVEL,
    AddParity,
    bench_document,
    bisect_document,
    cold_start,
    described,
    metrics,
    rich_bench_document,
    row,
    verdict,
)

VOID_ELEMENTS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: its text, its attributes, and whether every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def page_of(run: Run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_importing_the_room_is_cheap() -> None:
    heavy = ("torch", "matplotlib", "jinja2", "onnx")
    code = f"import sys, fcn_deploy.report.page; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_whole_page(full_run: Run) -> None:
    page = page_of(full_run)
    assert page.html.lstrip().startswith("<!DOCTYPE html>")
    assert page.values("lang") == ["en"]
    assert "fcn32s-resnet18" in page.html[page.html.index("<title>") : page.html.index("</title>")]
    for part in (
        "1,464", "350", "1,114",  # read, dropped, used
        "IoU per class", "12.5%", "absent",
        "ort fp32 against torch fp32", "boundary flips", "interior flips", "worst class",
        "swapped fp32 against torch fp32",
        "single-stream, end-to-end, batch 1, 320×480",
        "2 CPU threads pinned", "fake 1.0", "plain export", "p90", "too few", "timed loop",
        describe_machine()["cpu"], f"numpy {describe_versions()['numpy']}",
        "sha256:fake-checkpoint", "load 0.10 before the run, 1.25 after",
        "stolen by the host: 0.120%", "taken by other programs: 0.340%",
        "Queries answered in time", "Where the time goes",
        "red → blue", "0.5–1 ε", "17 px and more",
        "Diagnosis: the candidate matches the reference on pictures with red and blue exchanged",
    ):  # fmt: skip
        assert part in page.text, part
    assert "Throughput over batch" not in page.text
    assert "Layer by layer" not in page.text
    for check in read_results(full_run).comparisons[0].checks:
        assert " ".join(check.sentence.split()) in page.text


def test_everything_that_a_bench_file_may_hold_is_shown(run: Run) -> None:
    write_json(run.bench_folder / "a.json", rich_bench_document())
    text = page_of(run).text
    for part in (
        "MLPerf LoadGen", "VALID means at least 0.5 s and 64 queries a repeat",
        "INVALID: it had too few queries", "p99 bound, ms", "100",
        "server, host, batch 1, 320×480", "offline, host, batch 1, 320×480",
        "Throughput over batch", "Images/s over batch: end-to-end, 320×480",
        "NVIDIA H200", "1,785", "power cap", "3,201", "95.5",
        "other work ran on this machine; read the ratios only",
        "J/image", "0.800", "Before the first figure",
        "of a picture of 320×480 pixels; memory with batches of 4×320×480",
        "812", "433", "640", "41.0",
        "sum − wall", "-0.9%", "decode", "copy in", "compute", "copy out", "write",
    ):  # fmt: skip
        assert part in text, part


def test_a_backend_that_did_not_start_says_why(run: Run) -> None:
    why = "no GPU <here>; run `fcn-deploy doctor`"
    failed = cold_start(described("trt"), cold_start_ms=None, error=why)
    write_json(run.bench_folder / "a.json", bench_document(BASELINE, cold_starts=[failed]))
    assert why.replace("`", "") in page_of(run).text


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


def test_the_page_needs_no_network_and_runs_its_own_script_only(full_run: Run) -> None:
    page = page_of(full_run)
    targets = page.values("src") + [t for t in page.values("href") if not t.startswith("#")]
    assert targets
    assert all(target.startswith("data:") for target in targets)
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, flags=re.DOTALL)
    assert len(script.splitlines()) < 120
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for value in page.values("content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy


def test_pictures_ride_in_the_page_once(full_run: Run) -> None:
    sources = page_of(full_run).values("src")
    assert len(sources) == len(set(sources))


def test_links_lead_somewhere(full_run: Run) -> None:
    page = page_of(full_run)
    links = [target[1:] for target in page.values("href") if target.startswith("#")]
    assert len(links) > 4
    assert set(links) <= set(page.values("id"))


def test_headings_are_in_order_and_pictures_have_words(full_run: Run) -> None:
    page = page_of(full_run)
    levels = [int(tag[1]) for tag in page.tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    # the preview, and five views of each of the swapped candidate's pictures with flips
    assert page.tags.count("img") >= 1 + 2 * 5
    assert all(page.values("alt"))
    assert len(page.values("alt")) == page.tags.count("img")


def test_the_summary_stands_on_the_page(full_run: Run) -> None:
    text = page_of(full_run).text
    for line in summary_lines(read_results(full_run)):
        assert str(line).replace("`", "") in text


def test_the_figures_at_the_top_are_those_of_the_weights_that_were_kept(run: Run) -> None:
    write_json(
        run.metrics, metrics(epochs=4, best_epoch=3)
    )  # 0.4 and 0.7; the last has 0.5 and 0.8
    top = page_of(run).text.partition("In short")[0]
    assert "best epoch 3 of 4: validation mIoU 40.0%, pixel accuracy 70.0%." in " ".join(
        top.split()
    )


def test_a_failed_gate_is_seen(full_run: Run) -> None:
    assert "✗ FAILED" in page_of(full_run).text


def test_figures_of_an_older_checkpoint_are_marked(full_run: Run) -> None:
    full_run.checkpoint.write_bytes(b"trained again")
    assert "older checkpoint than the one in the run now" in page_of(full_run).text


def test_a_tie_is_marked_also_between_two_that_are_not_the_baseline(run: Run) -> None:
    near = row(described("other"), 20.5, 20.0, 20.1)
    write_json(run.bench_folder / "b.json", bench_document(BASELINE, FAST, near, LEVEL))
    text = page_of(run).text
    assert "= tie 0.976–1.02" in text
    assert "= tie: other fp32 and ort fp32 are too close to call here" in text.replace(
        "ort fp32 and other fp32", "other fp32 and ort fp32"
    )


def test_rows_of_other_tiers_and_machines_stay_apart(run: Run) -> None:
    host = [row(r.runner, *r.repeats_ms, tier=bench_results.HOST) for r in (BASELINE, FAST)]
    document = bench_document(BASELINE, FAST, *host)
    write_json(run.bench_folder / "a.json", document)
    assert "more than one machine" not in page_of(run).text
    document["machine"] |= {"cpu": "Another CPU", "cores": 64}
    write_json(run.bench_folder / "b.json", document)
    results = read_results(run)
    for measured in results.benches:
        groups = bench_groups(measured)
        tiers = [group.title.split(", ")[1] for group in groups]
        assert tiers == ["end-to-end", "host"]
        assert [group.leads for group in groups] == [True, False]
        assert all(len(group.rows) == 2 for group in groups)
    text = page_of(run).text
    assert "Another CPU, 64 cores bench/b.json" in text
    assert text.count("These figures come from more than one machine or Python.") == 1


def test_groups_come_in_the_order_of_interest(run: Run) -> None:
    write_json(run.bench_folder / "a.json", rich_bench_document())
    groups = bench_groups(read_results(run).benches[0])
    assert [group.title for group in groups] == [
        *(f"single-stream, end-to-end, batch {size}, 320×480" for size in (1, 4, 16)),
        *(f"single-stream, host, batch {size}, 320×480" for size in (1, 4, 16)),
        "offline, host, batch 1, 320×480",
        "server, host, batch 1, 320×480",
    ]
    assert [group.leads for group in groups] == [True, *[False] * 5, True, True]
    assert groups[0].in_short == "fastest: trt fp32 on cuda:0 (H200), 400 images/s"


def test_no_first_is_named_where_two_tie(run: Run) -> None:
    write_json(run.bench_folder / "a.json", bench_document(BASELINE, LEVEL))
    (group,) = bench_groups(read_results(run).benches[0])
    assert group.in_short.startswith("no clear first")


def test_only_rows_that_count_are_called_fastest(run: Run) -> None:
    def headline(*invalid: str) -> str:
        rows = [
            row(r.runner, *r.repeats_ms,
                loadgen=verdict("too short") if r.runner.backend in invalid else verdict())
            for r in (BASELINE, FAST, row(described("other"), 20.0, 20.5, 20.1))
        ]  # fmt: skip
        write_json(run.bench_folder / "a.json", bench_document(*rows))
        (group,) = bench_groups(read_results(run).benches[0])
        return group.in_short

    assert headline().startswith("no clear first")
    assert headline("other") == "fastest: ort fp32, 50.0 images/s"
    assert headline("ort", "other") == "fastest: plain export, 24.4 images/s"
    assert headline("ort", "other", "baseline") == (
        "no row counts: MLPerf LoadGen calls each INVALID"
    )


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
    write_json(run.bench_folder / "a.json", bench_document(*measured))
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
    write_json(run.bench_folder / "a.json", bench_document(BASELINE, *rows))
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


def test_flips_in_words(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "swapped")
    (comparison,) = read_results(run).comparisons
    shown, (others, flips) = most_flips(comparison)
    assert sum(pair.flips for pair in shown) + flips == comparison.flips
    assert others == max(0, len(comparison.by_class) - 8)
    assert [margin_words(b, comparison.epsilon) for b in comparison.by_margin] == [
        "0–0.5 ε", "0.5–1 ε", "1–2 ε", "beyond 2 ε",
    ]  # fmt: skip
    assert margin_words(comparison.by_margin[-1], None) == "any"
    assert [distance_words(bucket) for bucket in comparison.by_distance] == [
        "1 px", "2 px", "3 px", "4–8 px", "9–16 px", "17 px and more",
    ]  # fmt: skip


def test_the_clock_of_the_project_is_read(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    made = inputs.make_inputs(list(noise), (16, 24), tmp_path)
    runners = [FakeRunner(backend="baseline"), FakeRunner(backend="ort")]
    scenario = scenarios.TimedLoop(0.001)
    plan = BenchPlan(runners, [made], scenario, tmp_path, batch_sizes=[1, 2], repeats=3)
    measured = measure(plan, ConditionWatch(threads=1))
    unknown = replace(measured.conditions, load_before=None, load_after=None)
    write_json(run.bench_folder / "b.json", replace(measured, conditions=unknown).to_json())
    assert len(bench_groups(read_results(run).benches[0])) == 4
    assert "load unknown before the run, unknown after" in page_of(run).text


def test_a_missing_baseline_is_said(run: Run) -> None:
    write_json(run.bench_folder / "b.json", bench_document(FAST))
    assert "no baseline" in page_of(run).text


def test_missing_parts_name_their_command(run: Run) -> None:
    write_json(run.metrics, metrics(epochs=1))
    text = page_of(run).text
    argument = str(run.root)
    assert f"No comparison of masks here: run fcn-deploy parity {argument}." in text
    assert f"No speed has been measured here: run fcn-deploy bench {argument}." in text
    assert f"No preview picture here: run fcn-deploy train --out {argument}." in text
    assert "No backend has been compared or measured yet" in text

    run.metrics.unlink()
    write_json(run.bench_folder / "b.json", bench_document(BASELINE, FAST))
    text = page_of(run).text
    assert f"No training figures here: run fcn-deploy train --out {argument}." in text


def test_a_run_without_results_makes_no_page(run: Run) -> None:
    with pytest.raises(MissingStageError, match="fcn-deploy train"):
        write_report(run)
    assert not run.report.exists()


def test_the_target_may_be_named(full_run: Run, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "page.html"
    assert write_report(full_run, target) == target
    assert target.is_file()
    assert not full_run.report.exists()


def test_everything_is_escaped(run: Run, add_parity: AddParity) -> None:
    nasty = "<b>&\"'<script>alert(1)</script>"
    names = [nasty, *FAKE_SPEC.class_names[1:]]
    write_json(run.metrics, metrics(class_names=names, architecture=nasty))
    add_parity(run, "ort")
    document = json.loads((run.parity_folder / "ort.json").read_text())
    document["results"][0]["checks"][0]["sentence"] = nasty
    document["results"][0]["candidate"]["backend"] = "`" + nasty
    write_json(run.parity_folder / "ort.json", document)
    hostile = bench_document(BASELINE, FAST, warnings=[nasty])
    hostile["rows"][1]["runner"] |= {"backend": nasty, "library": nasty}
    hostile["rows"][1] |= {"scenario": nasty, "tier": nasty}
    hostile["machine"]["cpu"] = hostile["inputs"]["source"] = nasty
    write_json(run.bench_folder / "b.json", hostile)
    layers = bisect_document(layers=2, first=1)
    layers["layers"][0]["name"] = layers["candidate"]["file"] = nasty
    write_json(run.bisect_folder / "b.json", layers)
    page = page_of(run)
    assert page.tags.count("script") == 1  # our own
    assert "b" not in page.tags
    assert nasty in page.text


def test_half_a_surrogate_pair_does_not_break_the_page(run: Run) -> None:
    write_json(run.metrics, metrics(device="\ud800"))
    assert page_of(run).text


def test_a_damaged_result_makes_no_page(run: Run) -> None:
    write_json(run.metrics, metrics(epochs=0))
    with pytest.raises(ArtifactError):
        write_report(run)
    assert not run.report.exists()


def test_a_broken_preview_is_named(full_run: Run) -> None:
    full_run.preview.write_bytes(b"no picture")
    with pytest.raises(ArtifactError, match=r"preview\.png.*train again"):
        write_report(full_run)


def test_an_old_report_survives_a_failure(full_run: Run) -> None:
    write_report(full_run)
    before = full_run.report.read_bytes()
    full_run.metrics.write_text("{")
    with pytest.raises(ArtifactError):
        write_report(full_run)
    assert full_run.report.read_bytes() == before


def test_the_same_results_give_the_same_page(full_run: Run) -> None:
    assert write_report(full_run).read_bytes() == write_report(full_run).read_bytes()


def test_curves_break_where_a_figure_is_missing_and_one_epoch_is_a_dot(run: Run) -> None:
    write_json(run.metrics, metrics(epochs=30))
    results = read_results(run)
    assert results.training is not None
    loss, accuracy, miou = training_charts(results.training)
    assert [curve.name for curve in loss.curves] == ["train"]
    assert [len(segment) for segment in accuracy.curves[1].segments] == [30]
    assert [len(segment) for segment in miou.curves[1].segments] == [28]
    assert len(miou.curves[1].dots) == 1  # the first epoch, alone before the gap
    assert [label for _, label in loss.x_ticks] == ["1", "5", "10", "15", "20", "25", "30"]

    seldom = metrics(epochs=30)
    for epoch in seldom["epochs"][1::2]:
        epoch |= {"val_pixel_accuracy": None, "val_mean_iou": None}
    write_json(run.metrics, {**seldom, "best_epoch": 29})
    results = read_results(run)
    assert results.training is not None
    for chart in training_charts(results.training)[1:]:
        train, val = chart.curves
        assert [len(segment) for segment in train.segments] == [30]
        assert [len(segment) for segment in val.segments] == [15]  # joined, not 15 lone dots

    write_json(run.metrics, metrics(epochs=1))
    results = read_results(run)
    assert results.training is not None
    assert all(
        len(c.dots) == 1 for chart in training_charts(results.training) for c in chart.curves
    )
    # five dots, and a marker for each of the two curves in the keys of two charts
    assert page_of(run).tags.count("circle") == 5 + 2 * 2


def test_masks_ride_along_exactly(tmp_path: Path) -> None:
    import io

    colours = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    picture = colours[np.random.default_rng(1).integers(0, 200, (40, 50))]
    write_picture(tmp_path / "mask.png", picture)
    kind, _, content = data_uri(tmp_path / "mask.png", "").partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), picture)


# -- result files of several machines -----------------------------------------------------------


def test_results_of_several_machines_meet_and_are_not_ranked(full_run: Run, tmp_path: Path) -> None:
    document = bench_document(BASELINE, FAST)
    document["machine"] |= {"cpu": "Another CPU", "cores": 64}
    write_json(tmp_path / "far.json", document)
    files = [
        full_run.bench_folder / "all.json", tmp_path / "far.json",
        full_run.parity_folder / "ort.json",
    ]  # fmt: skip
    target = write_merged_report(files, tmp_path / "page.html")
    text = Page(target.read_text(encoding="utf-8")).text
    assert "3 result files" in text
    assert "Rows are ranked only within one file" in text
    assert "MASKS NOT CHECKED ON THIS MACHINE" in text
    for file in files:
        assert str(file) in text
    assert "No preview picture here" not in text
    for line in summary_lines(read_files(files)):
        assert "Another CPU" in line.label or describe_machine()["cpu"] in line.label


def test_the_order_of_files_does_not_matter_to_the_figures(full_run: Run, tmp_path: Path) -> None:
    files = [full_run.bench_folder / "all.json", full_run.parity_folder / "ort.json"]
    one, other = read_files(files), read_files(files[::-1])
    assert summary_lines(one) == summary_lines(other)


def test_files_meet_in_the_current_folder(
    full_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_merged_report([full_run.bench_folder / "all.json"]) == Path("report.html")
    assert (tmp_path / "report.html").is_file()


def test_a_result_is_not_overwritten_by_its_report(full_run: Run) -> None:
    file = full_run.bench_folder / "all.json"
    before = file.read_bytes()
    with pytest.raises(InputError, match="--out"):
        write_merged_report([file], file)
    assert file.read_bytes() == before


def test_the_command_tells_runs_and_files_apart(
    full_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from fcn_deploy.commands.report import report

    monkeypatch.chdir(tmp_path)
    bench_file, parity_file = (
        full_run.bench_folder / "all.json",
        full_run.parity_folder / "ort.json",
    )
    merged = CliRunner().invoke(report, [str(bench_file), str(parity_file)])
    assert (merged.exit_code, merged.output.strip()) == (0, "wrote report.html"), merged.output
    single = CliRunner().invoke(report, [str(full_run.root)])
    assert single.output.strip() == f"wrote {full_run.report}"
    named = CliRunner().invoke(report, [str(bench_file), "--out", "other.html"])
    assert named.output.strip() == "wrote other.html"
    for mixture in ([str(full_run.root), str(bench_file)], ["a run", "another"]):
        refused = CliRunner().invoke(report, mixture)
        assert isinstance(refused.exception, InputError)
