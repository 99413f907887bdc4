"""The report: read back with an HTML parser, from documents that the package itself wrote."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.bench import inputs, scenarios
from fcn_deploy.bench.conditions import ConditionWatch
from fcn_deploy.bench.measure import BenchPlan, measure
from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.masks import write_picture
from fcn_deploy.machine.description import describe_machine, describe_versions
from fcn_deploy.report.page import data_uri, write_report
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.results.bench_table import bench_groups
from fcn_deploy.results.read import read_results
from fcn_deploy.results.scenarios import HOST
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.report.parsed_page import page_of
from tests.result_files import (
    BASELINE,
    FAST,
    LEVEL,
    AddParity,
    add_bench,
    bench_document,
    bisect_document,
    cold_start,
    described,
    metrics,
    rich_bench_document,
    row,
)


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
        "swapped fp32 against torch fp32", "✗ FAILED",
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
    add_bench(run, BASELINE, cold_starts=[failed], name="a")
    assert why.replace("`", "") in page_of(run).text


def test_the_page_needs_no_network_and_runs_its_own_script_only(full_run: Run) -> None:
    page = page_of(full_run)
    sources = page.values("src")
    assert len(sources) == len(set(sources))  # each picture rides in it once
    targets = sources + [t for t in page.values("href") if not t.startswith("#")]
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
    # Of the third epoch 0.4 and 0.7; the last has 0.5 and 0.8.
    write_json(run.metrics, metrics(epochs=4, best_epoch=3))
    top = " ".join(page_of(run).text.partition("In short")[0].split())
    assert "best epoch 3 of 4: validation mIoU 40.0%, pixel accuracy 70.0%." in top


def test_figures_of_an_older_checkpoint_are_marked(full_run: Run) -> None:
    full_run.checkpoint.write_bytes(b"trained again")
    assert "older checkpoint than the one in the run now" in page_of(full_run).text


def test_a_tie_is_marked_also_between_two_that_are_not_the_baseline(run: Run) -> None:
    near = row(described("other"), 20.5, 20.0, 20.1)
    add_bench(run, BASELINE, FAST, near, LEVEL)
    text = page_of(run).text
    assert "= tie 0.976–1.02" in text
    assert "= tie: other fp32 and ort fp32 are too close to call here" in text.replace(
        "ort fp32 and other fp32", "other fp32 and ort fp32"
    )


def test_rows_of_other_tiers_and_machines_stay_apart(run: Run) -> None:
    host = [row(r.runner, *r.repeats_ms, tier=HOST) for r in (BASELINE, FAST)]
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
    add_bench(run, FAST)
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
    add_bench(run, BASELINE, FAST)
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


def test_masks_ride_along_exactly(tmp_path: Path) -> None:
    import io

    colours = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    picture = colours[np.random.default_rng(1).integers(0, 200, (40, 50))]
    write_picture(tmp_path / "mask.png", picture)
    kind, _, content = data_uri(tmp_path / "mask.png", "").partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), picture)
