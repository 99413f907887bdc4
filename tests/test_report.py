"""The report: read back with an HTML parser, from documents that the real rooms made."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_deploy import bench, parity
from fcn_deploy.artifacts import Run, write_json
from fcn_deploy.errors import ArtifactError, MissingStageError
from fcn_deploy.machine import describe_machine, describe_versions, utc_now
from fcn_deploy.masks import mask_to_colour, write_picture
from fcn_deploy.report import (
    SCHEMAS,
    bench_groups,
    data_uri,
    number,
    percent,
    read_results,
    repeat_commands,
    summary_lines,
    training_charts,
    write_report,
)
from fcn_deploy.runners.base import RunnerDescription
from fcn_deploy.spec import Precision
from tests.fakes import FAKE_SPEC, FakeRunner

SIZE = (72, 96)  # smaller pictures are not drawn
VOID_ELEMENTS = {"meta", "link", "img", "br"}
AddParity = Callable[[Run, str], None]


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
        if self.open[-1:] != ["style"]:
            self._text.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._text).split())

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def metrics(epochs: int = 3, **changes: Any) -> dict[str, Any]:
    """Return a document as `train` writes it."""
    names = FAKE_SPEC.class_names
    entries = [
        {
            "epoch": number,
            "lr": 1e-3,
            "loss": 2.0 / number,
            "train_pixel_accuracy": 0.5 + 0.1 * number,
            "train_mean_iou": 0.2 + 0.1 * number,
            "val_pixel_accuracy": 0.4 + 0.1 * number,
            "val_mean_iou": None if number == 2 else 0.1 + 0.1 * number,
            "val_iou": [0.9, 0.5, 0.25, 0.125, None][: len(names)],
            "examples_per_s": 12.0,
            "seconds": 3.0,
        }
        for number in range(1, epochs + 1)
    ]
    return {
        "schema": 1,
        "kind": "train",
        "created": utc_now(),
        "architecture": "fcn32s-resnet18",
        "weights": None,
        "freeze_backbone": False,
        "seed": 3,
        "device": "cpu",
        "data_argument": "my data",
        "recipe": {"name": "scratch", "lr": 0.002, "epochs": epochs, "crop_size": [64, 96]},
        "class_names": list(names),
        "data": {
            "train": {"source": "my data (train)", "read": 1464, "dropped": 350},
            "val": {"source": "my data (val)", "read": 1449, "dropped": 0},
        },
        "epochs": entries,
        "machine": describe_machine(),
        "versions": describe_versions(),
        **changes,
    }


def pictures() -> parity.Pictures:
    generator = np.random.default_rng(0)
    found = []
    for index in range(2):
        coarse = generator.integers(0, FAKE_SPEC.num_classes, (6, 8), dtype=np.uint8)
        mask = np.repeat(np.repeat(coarse, 12, axis=0), 12, axis=1)
        image = mask_to_colour(mask, FAKE_SPEC.palette)
        found.append(parity.Picture(f"picture {index}", image, mask))
    return parity.Pictures("my <val> images", len(found), found.__getitem__)


def swap_red_and_blue(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images[..., ::-1])


CANDIDATES = {
    "ort": FakeRunner(backend="ort", noise=1e-4),
    "ort16": FakeRunner(backend="ort", precision=Precision.FP16),
    "swapped": FakeRunner(backend="swapped", see=swap_red_and_blue),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parity results with their pictures, made once: comparing takes a second."""
    folder = tmp_path_factory.mktemp("parity")
    for name, candidate in CANDIDATES.items():
        reference = FakeRunner(backend="torch")
        result = parity.compare(reference, candidate, pictures())
        parity.save([result], folder / f"{name}.json")
    return folder


@pytest.fixture
def add_parity(compared: Path) -> AddParity:
    """Give a run one of the results."""

    def add(run: Run, name: str) -> None:
        for pictures_folder in compared.glob(f"{name}-*"):
            shutil.copytree(pictures_folder, run.parity_folder / pictures_folder.name)
        shutil.copy(compared / f"{name}.json", run.parity_folder)

    return add


def row(
    runner: RunnerDescription, *repeats: float, tier: str = bench.END_TO_END, queries: int = 30
) -> bench.Row:
    latency = {"median": repeats[0]} | ({"p90": 1.5 * repeats[0]} if queries >= 64 else {})
    return bench.Row(runner, tier, 1, (320, 480), "sha256:in", repeats, queries, latency)


def described(backend: str, precision: Precision = Precision.FP32) -> RunnerDescription:
    return FakeRunner(backend=backend, precision=precision, threads=2).describe()


def bench_document(*rows: bench.Row, load: float | None = 0.1) -> dict[str, Any]:
    # Through JSON and back, so that a test may change it without changing the rows.
    document: dict[str, Any] = json.loads(json.dumps(bench.bench_document(rows, "scenes", load)))
    return document


BASELINE = row(described("baseline"), 40.0, 41.0, 42.0, queries=90)
FAST = row(described("ort"), 20.0, 20.5, 20.0, queries=90)
LEVEL = row(described("ort", Precision.FP16), 41.0, 40.0, 43.0)
SLOW = row(described("torch"), 80.0, 85.0, 82.0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def full_run(run: Run, add_parity: AddParity) -> Run:
    """A run with everything: one candidate that passes, one that has swapped two channels."""
    write_json(run.metrics, metrics())
    write_picture(run.preview, np.zeros((20, 60, 3), dtype=np.uint8))
    add_parity(run, "ort")
    add_parity(run, "swapped")
    write_json(run.bench_folder / "all.json", bench_document(BASELINE, FAST, LEVEL, SLOW))
    return run


def page_of(run: Run) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def lines_of(run: Run) -> dict[str, str]:
    return {line.label: line.sentence for line in summary_lines(read_results(run))}


def test_schemas_are_those_of_the_rooms_that_write() -> None:
    # Read, not imported: the room that trains needs torch.
    train = (Path(bench.__file__).parent / "train.py").read_text(encoding="utf-8")
    (metrics_schema,) = re.findall(r"^METRICS_SCHEMA = (\d+)$", train, flags=re.MULTILINE)
    assert {
        "train": int(metrics_schema),
        "parity": parity.PARITY_SCHEMA,
        "bench": bench.BENCH_SCHEMA,
    } == SCHEMAS


def test_importing_the_room_is_cheap() -> None:
    heavy = ("torch", "matplotlib", "jinja2", "onnx")
    code = f"import sys, fcn_deploy.report; print([m for m in {heavy!r} if m in sys.modules])"
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
        "end-to-end, batch 1, 320×480, 1 query at a time",
        "2 threads", "fake 1.0", "the baseline", "p90 ms", "too few queries",
        describe_machine()["cpu"], f"numpy {describe_versions()['numpy']}",
        "sha256:fake-checkpoint", "load before the run 0.10",
    ):  # fmt: skip
        assert part in page.text, part
    assert "p99" not in page.text
    for check in read_results(full_run).comparisons[0].checks:
        assert " ".join(check.sentence.split()) in page.text


def test_the_page_needs_no_network_and_no_script(full_run: Run) -> None:
    page = page_of(full_run)
    targets = page.values("src") + page.values("href")
    assert targets
    assert all(target.startswith("data:") for target in targets)
    assert "script" not in page.tags
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_headings_are_in_order_and_pictures_have_words(full_run: Run) -> None:
    page = page_of(full_run)
    levels = [int(tag[1]) for tag in page.tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    # the preview, and four views of each of the swapped candidate's two pictures with flips
    assert page.tags.count("img") >= 1 + 2 * 4
    assert all(page.values("alt"))
    assert len(page.values("alt")) == page.tags.count("img")


def test_summary_says_masks_and_speed(full_run: Run) -> None:
    lines = lines_of(full_run)
    assert lines["ort fp32"] == (
        "same masks (gate passed), 2.00× faster than the plain export (2.00–2.10), "
        "end-to-end, batch 1, 320×480"
    )
    assert lines["torch fp32"].startswith("the reference for the masks, 2.00× slower")
    assert "tie with the plain export (0.976–1.02× its speed)" in lines["ort fp16"]
    assert "MASKS NOT CHECKED: run `fcn-deploy parity" in lines["ort fp16"]
    assert "--backend ort --fp16`" in lines["ort fp16"]
    assert "MASKS DIFFER, THE GATE FAILED" in lines["swapped fp32"]
    assert "speed not measured: run `fcn-deploy bench" in lines["swapped fp32"]
    states = [line.state for line in summary_lines(read_results(full_run))]
    assert states == ["failed", "unchecked", "passed", "reference"]
    for line in summary_lines(read_results(full_run)):
        assert str(line).replace("`", "") in page_of(full_run).text


def test_a_failed_gate_is_seen_and_its_speed_is_not_praised(full_run: Run) -> None:
    page = page_of(full_run)
    assert "✗ FAILED" in page.text
    write_json(
        full_run.bench_folder / "swapped.json",
        bench_document(BASELINE, row(described("swapped"), 1.0, 1.1, 1.0)),
    )
    assert lines_of(full_run)["swapped fp32"].endswith(", for different masks")


def test_flips_within_the_gate_are_not_called_nothing(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    path = run.parity_folder / "ort.json"
    document = json.loads(path.read_text())
    document["results"][0] |= {"agreement": 0.9999999, "flips": 1}
    write_json(path, document)
    assert "(gate passed, 99.99999% of the pixels agree)" in lines_of(run)["ort fp32"]


def test_parity_of_another_checkpoint_or_file_does_not_count(full_run: Run) -> None:
    full_run.checkpoint.write_bytes(b"trained again")
    lines = lines_of(full_run)
    assert "OLDER CHECKPOINT ONLY" in lines["ort fp32"]
    assert "measured on an older checkpoint" in lines["ort fp32"]
    assert "older checkpoint than the one in the run now" in page_of(full_run).text
    full_run.checkpoint.unlink()

    exported_again = replace(described("ort"), digest="sha256:other")
    rows = (BASELINE, row(exported_again, 20.0, 21.0, 20.0))
    write_json(full_run.bench_folder / "all.json", bench_document(*rows))
    assert "ANOTHER FILE THAN THE ONE MEASURED" in lines_of(full_run)["ort fp32"]


def test_a_tie_is_marked_also_between_two_that_are_not_the_baseline(run: Run) -> None:
    near = row(described("other"), 20.5, 20.0, 20.1)
    write_json(run.bench_folder / "b.json", bench_document(BASELINE, FAST, near, LEVEL))
    text = page_of(run).text
    assert "= tie 0.976–1.02×" in text
    assert "= tie: other fp32 and ort fp32 are too close to call here" in text.replace(
        "ort fp32 and other fp32", "other fp32 and ort fp32"
    )


def test_rows_of_other_tiers_and_machines_stay_apart(run: Run) -> None:
    host = [row(r.runner, *r.repeats_ms, tier=bench.HOST) for r in (BASELINE, FAST)]
    document = bench_document(BASELINE, FAST, *host)
    write_json(run.bench_folder / "a.json", document)
    document["machine"] |= {"cpu": "Another CPU", "cores": 64}
    write_json(run.bench_folder / "b.json", document)
    results = read_results(run)
    for measured in results.benches:
        groups = bench_groups(measured)
        assert [group.title.split(",")[0] for group in groups] == ["end-to-end", "host"]
        assert all(len(group.rows) == 2 for group in groups)
    text = page_of(run).text
    assert "Another CPU, 64 cores bench/b.json" in text
    assert lines_of(run)["ort fp32"].count("2.00× faster") == 2
    assert "on Another CPU, 64 cores" in lines_of(run)["ort fp32"]


def test_the_clock_of_the_project_is_read(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    inputs = bench.make_inputs(list(noise), (16, 24), tmp_path)
    runners = [FakeRunner(backend="baseline"), FakeRunner(backend="ort")]
    rows = bench.measure(runners, [inputs], [1, 2], repeats=3, seconds_per_repeat=0.001)
    write_json(run.bench_folder / "b.json", bench.bench_document(rows, "noise", None))
    assert len(bench_groups(read_results(run).benches[0])) == 4
    assert "load before the run unknown" in page_of(run).text


def test_a_busy_machine_is_a_warning(run: Run) -> None:
    document = bench_document(BASELINE, FAST, load=1.5)
    document["machine"]["cores"] = 2
    write_json(run.bench_folder / "b.json", document)
    assert "The machine was busy when this run began (load 1.50 on 2 cores)" in page_of(run).text


def test_without_a_baseline_the_time_is_said(run: Run) -> None:
    write_json(run.bench_folder / "b.json", bench_document(FAST))
    assert (
        "20.0 ms per query, end-to-end, batch 1, 320×480, no baseline" in lines_of(run)["ort fp32"]
    )
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


def test_lost_picture_files_are_said(full_run: Run) -> None:
    for path in full_run.parity_folder.glob("swapped-*/*.png"):
        path.unlink()
    page = page_of(full_run)
    assert "Its picture files are gone: run fcn-deploy parity" in page.text


def test_nothing_at_all_names_the_first_command(run: Run) -> None:
    with pytest.raises(MissingStageError, match=r"run `fcn-deploy train --out .*` first"):
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
    page = page_of(run)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert nasty in page.text


def test_half_a_surrogate_pair_does_not_break_the_page(run: Run) -> None:
    write_json(run.metrics, metrics(device="\ud800"))
    assert page_of(run).text


def spoil(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    place: Any = document
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "bench", "is not a train result"),
        ("schema", 2, "has schema 2, this version reads 1"),
        ("schema", True, "has schema True"),
        ("created", KeyError, "created is missing"),
        ("machine", [], "machine is not an object"),
        ("epochs", [], "epochs is not a list of at least one epoch"),
        ("epochs", [1], "epochs is not a list of objects"),
        ("epochs/0/loss", "low", "epochs[0].loss is not a number"),
        ("epochs/2/val_iou", [0.1], "epochs[2].val_iou is not one number for each of 5 classes"),
        ("epochs/2/val_iou", ["x"] * 5, "epochs[2].val_iou is not a list of numbers"),
        ("data/train/read", -1, "data.train.read is not a whole number"),
        ("data/train/read", True, "data.train.read is not a whole number"),
        ("class_names", [1], "class_names is not a list of texts"),
    ],
)
def test_damaged_training_figures(
    run: Run, path: str, value: Any, said: str, one_line: Callable[[Exception], str]
) -> None:
    write_json(run.metrics, spoil(metrics(), path, value))
    with pytest.raises(ArtifactError) as caught:
        write_report(run)
    line = one_line(caught.value)
    assert str(run.metrics) in line
    assert said in line
    assert "fcn-deploy train" in line
    assert not run.report.exists()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("results", KeyError, "results is missing"),
        ("results/0/checks", [], "results[0].checks is not a list of at least one check"),
        ("results/0/candidate/threads", "2", "results[0].candidate.threads is not a whole"),
        ("results/0/agreement", None, "results[0].agreement is not a number"),
        ("results/0/passed", "yes", "results[0].passed is not true or false"),
        ("results/0/pictures/0/files/image", "/etc/passwd", "files.image is not a path below"),
        ("results/0/pictures/0/files/image", "../../secret.png", "files.image is not a path"),
    ],
)
def test_damaged_parity(run: Run, add_parity: AddParity, path: str, value: Any, said: str) -> None:
    add_parity(run, "ort")
    file = run.parity_folder / "ort.json"
    write_json(file, spoil(json.loads(file.read_text()), path, value))
    with pytest.raises(ArtifactError, match="fcn-deploy parity") as caught:
        write_report(run)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rows/1/median_ms", 0, "rows[1].median_ms is not a number above 0"),
        ("rows/1/median_ms", 10**400, "rows[1].median_ms is not a number above 0"),
        ("rows/1/spread_ms", [1], "rows[1].spread_ms is not a list of 2 numbers"),
        ("rows/1/latency_ms/p90", None, "rows[1].latency_ms.p90 is not a number"),
        ("rows/1/speedup_over_baseline/tie", KeyError, "speedup_over_baseline.tie is missing"),
        ("rows/1/runner", KeyError, "rows[1].runner is missing"),
    ],
)
def test_damaged_bench(run: Run, path: str, value: Any, said: str) -> None:
    file = run.bench_folder / "b.json"
    write_json(file, spoil(bench_document(BASELINE, FAST), path, value))
    with pytest.raises(ArtifactError, match="fcn-deploy bench") as caught:
        write_report(run)
    assert said.replace(" above 0", "") in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "null", "[" * 100_000])
def test_files_that_are_no_json_object(run: Run, content: str) -> None:
    run.bench_folder.mkdir(parents=True)
    file = run.bench_folder / "b.json"
    file.write_text(content)
    with pytest.raises(ArtifactError, match="fcn-deploy bench") as caught:
        write_report(run)
    assert str(file) in str(caught.value)


def test_a_file_that_is_being_written_is_left_alone(full_run: Run) -> None:
    (full_run.bench_folder / ".all.12ab.json").write_text("{")
    assert page_of(full_run).text


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


def test_commands_to_repeat(tmp_path: Path, add_parity: AddParity) -> None:
    run = Run(tmp_path / "my run")
    write_json(run.metrics, metrics())
    add_parity(run, "ort16")
    write_json(run.bench_folder / "b.json", bench_document(BASELINE, LEVEL))
    quoted = f"'{run.root}'"
    assert repeat_commands(read_results(run)) == [
        f"fcn-deploy train --out {quoted} --data 'my data' --arch fcn32s-resnet18 --weights none "
        "--recipe scratch --epochs 3 --crop-size 64x96 --lr 0.002 --seed 3",
        f"fcn-deploy export {quoted}",
        f"fcn-deploy export {quoted} --fp16",
        f"fcn-deploy parity {quoted} --backend ort --fp16",
        f"fcn-deploy bench {quoted} --backend ort --fp16 --batch 1 --size 320x480 --threads 2",
        f"fcn-deploy report {quoted}",
    ]


def test_the_default_run_needs_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.from_argument(None)
    write_json(run.metrics, metrics())
    assert repeat_commands(read_results(run))[-1] == "fcn-deploy report"


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

    write_json(run.metrics, metrics(epochs=1))
    results = read_results(run)
    assert results.training is not None
    assert all(
        len(c.dots) == 1 for chart in training_charts(results.training) for c in chart.curves
    )
    assert page_of(run).tags.count("circle") == 5


def test_masks_ride_along_exactly(tmp_path: Path) -> None:
    import base64
    import io

    colours = np.random.default_rng(0).integers(0, 256, (200, 3), dtype=np.uint8)
    picture = colours[np.random.default_rng(1).integers(0, 200, (40, 50))]
    write_picture(tmp_path / "mask.png", picture)
    kind, _, content = data_uri(tmp_path / "mask.png", "").partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), picture)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (0, "0"), (2.345, "2.35"), (9.996, "10.0"), (999.9, "1,000"),
        (123456, "123,000"), (0.04567, "0.0457"), (0.00012345, "0.000123"), (1e-7, "1.00e-07"),
        (-1.5, "-1.50"), (1.79e308, "1.79e+308"),
    ],
)  # fmt: skip
def test_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "n/a"), (0, "0%"), (1, "100%"), (0.5, "50.0%"), (0.99961, "99.961%"),
        (0.999999, "99.9999%"), (0.9999999999, "99.99999999%"), (0.0001, "0.0100%"),
    ],
)  # fmt: skip
def test_percentages_never_round_up_to_all(share: float | None, text: str) -> None:
    shown = percent(share)
    assert shown == text
