"""``fcn-deploy evaluate`` as typed: what it writes, what it prints, what it refuses."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fcn_deploy.commands import evaluate_tables
from fcn_deploy.commands.shared import console
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.masks import mask_to_colour, write_mask
from fcn_deploy.evaluate.evaluate import evaluate as evaluate_runners
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.results.read import read_files, read_results
from tests.command_line import FcnDeploy, Finished, refused, run_without_torch
from tests.conftest import TINY_CLASS_NAMES, WriteVocFolder
from tests.evaluate.labelled import labelled
from tests.fakes import FAKE_SPEC, FakeRunner


def write_data(
    root: Path, names: tuple[str, ...] = FAKE_SPEC.class_names, *, count: int = 3
) -> Path:
    """Write labelled pictures that a fake runner segments without an error."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    generator = np.random.default_rng(1)
    for index in range(count):
        mask = generator.integers(0, len(names), (40, 56), dtype=np.uint8)
        image = Image.fromarray(mask_to_colour(mask, FAKE_SPEC.palette))
        image.save(root / "JPEGImages" / f"p{index}.png")
        write_mask(root / "SegmentationClass" / f"p{index}.png", mask, FAKE_SPEC.palette)
    listed = "".join(f"p{index}\n" for index in range(count))
    (root / "ImageSets" / "Segmentation" / "test.txt").write_text(listed)
    (root / "classes.txt").write_text("\n".join(names))
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


Opened = dict[tuple[str, Precision], FakeRunner]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Backend and precision → the fake that the command is given for it."""
    fakes = {
        (backend, precision): FakeRunner(
            backend=backend, precision=precision, noise=0 if precision is Precision.FP32 else 9.0
        )
        for backend in ("ort", "ncnn")
        for precision in Precision
    }
    module = "fcn_deploy.commands.evaluate"
    monkeypatch.setattr(
        f"{module}.open_chosen",
        lambda _source, chosen, **_options: fakes[chosen.backend, chosen.precision],
    )
    monkeypatch.setattr(f"{module}.require_backends", lambda _backends, _device: None)
    return fakes


Evaluate = Callable[..., Finished]


@pytest.fixture
def evaluate(fcn_deploy: FcnDeploy, data: Path) -> Evaluate:
    """Evaluate on the list ``test`` of the data, into ``e.json``."""
    words = ("--data", data, "--split", "test", "--json", "e.json")
    return lambda *typed: fcn_deploy("evaluate", *typed, *words)


def test_backends_and_precisions_stand_side_by_side(
    fcn_deploy: FcnDeploy, opened: Opened, data: Path
) -> None:
    (run := Path("run")).mkdir()
    words = ("--backend", "ncnn", "--backend", "ort", "--fp32", "--int8")
    finished = fcn_deploy("evaluate", run, "--data", data, "--split", "test", *words).succeeded()
    target = run / "evaluate" / "ncnn-ort.fp32-int8.data.test.json"
    assert f"wrote {target}" in finished.out
    content = read_json(target, "")
    rows = [(row["runner"]["backend"], row["runner"]["precision"]) for row in content["results"]]
    assert rows == [("ncnn", "fp32"), ("ort", "fp32"), ("ncnn", "int8"), ("ort", "int8")]
    first, _, int8, _ = content["results"]
    assert first["mean_iou"]["value"] == 1
    change = int8["mean_iou_change"]
    assert change["value"] == int8["mean_iou"]["value"] - 1 < 0
    assert change["interval"]["low"] <= change["value"] <= change["interval"]["high"]
    assert content["pictures"]["split"] == "test"
    assert content["bootstrap"] == {"resamples": 2000, "seed": 0, "level": 0.95}
    told = " ".join(finished.out.split())
    assert "3 images of" in told
    assert "100.00% [100.00–100.00]" in told
    assert "Δ mIoU, points" in told
    assert "with only 3 images the intervals mean little" in told
    assert "IoU per class" in told
    assert "confusion matrix of ort int8" in told
    assert "whether training used these images is not known" in told
    assert all(runner.closed for (_, precision), runner in opened.items()
               if precision in (Precision.FP32, Precision.INT8))  # fmt: skip


def test_what_was_typed_is_kept_and_said_in_the_report(
    fcn_deploy: FcnDeploy,
    opened: Opened,
    data: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    options = ["--data", str(data), "--split", "test.txt", "--backend", "ort", "--batch", "2"]
    fcn_deploy("evaluate", run, *options).succeeded()
    assert opened["ort", Precision.FP32].shapes[0] == (2, 40, 56, 3)
    options[3] = "test"
    command = " ".join(["fcn-deploy evaluate", str(run), *options])
    assert command in repeat_commands(read_files([run / "evaluate" / "ort.fp32.data.test.json"]))
    results = read_results(Run(run))
    assert command in repeat_commands(results)
    assert [file.pictures.count for file in results.evaluations] == [3]
    fcn_deploy("report", run).succeeded()
    page = (run / "report.html").read_text()
    assert "How good are the masks?" in page
    assert "Confusion matrix of ort fp32" in page


def test_a_failing_backend_leaves_no_file(
    evaluate: Evaluate, opened: Opened, tmp_path: Path
) -> None:
    def breaks(_images: Any, _outputs: Any) -> Any:
        raise BackendError("out of memory", "use smaller pictures")

    opened["ort", Precision.FP32] = FakeRunner(backend="ort", bug=breaks)
    refused(evaluate(tmp_path, "--backend", "ncnn", "--backend", "ort"), "out of memory")
    assert not Path("e.json").exists()
    assert opened["ncnn", Precision.FP32].closed


def test_a_real_backend_is_scored_without_torch(tiny_run: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", TINY_CLASS_NAMES, count=2)
    words = ("--data", data, "--split", "test", "--threads", "1", "--json", tmp_path / "e.json")
    run_without_torch("evaluate", tiny_run, *words).succeeded()
    (row,) = read_json(tmp_path / "e.json", "")["results"]
    assert row["runner"]["backend"] == "ort"  # the default where the run has been exported
    assert sum(map(sum, row["confusion"])) == 2 * 40 * 56


@pytest.mark.slow
def test_the_miou_is_the_one_of_parity(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", TINY_CLASS_NAMES, count=2)
    lists = data / "ImageSets" / "Segmentation"
    (lists / "test.txt").rename(lists / "val.txt")
    words = ("--backend", "ort", "--data", data)
    fcn_deploy("evaluate", tiny_run, *words, "--json", "e.json")
    fcn_deploy("parity", tiny_run, *words, "--json", "p.json")
    (row,) = read_json(Path("e.json"), "")["results"]
    (comparison,) = read_json(Path("p.json"), "")["results"]
    scores = comparison["scores"]
    assert row["mean_iou"]["value"] == scores["candidate_miou"]
    assert row["pixel_accuracy"]["value"] == scores["candidate_pixel_accuracy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "test"], "no list test in"),
        (["--split", "val"], "has 8 classes, the network 5; evaluate on data with"),
        (["--backend", "nothing"], "no backend 'nothing' in this version"),
        (["--int8"], "no .*; run `fcn-deploy export .* --int8` first"),
        (["--batch", "0"], "--batch"),
    ],
)
def test_bad_input_is_one_line_with_its_repair(
    fcn_deploy: FcnDeploy,
    tiny_run: Path,
    voc_folder: WriteVocFolder,
    words: list[str],
    said: str,
) -> None:
    folder = voc_folder()
    finished = fcn_deploy("evaluate", tiny_run, "--data", folder, "--json", "e.json", *words)
    refused(finished)
    assert re.search(said, finished.err), finished.err
    assert not Path("e.json").exists()


def test_on_a_narrow_terminal_no_word_of_the_tables_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = StringIO()
    narrow = Console(file=stream, width=30, soft_wrap=True)
    monkeypatch.setattr(evaluate_tables, "console", narrow)
    monkeypatch.setattr(console, "console", narrow)
    runners = [FakeRunner(), FakeRunner(backend="another", noise=6.0)]
    evaluate_tables.print_evaluation(evaluate_runners(runners, labelled(3), split="val"))
    assert "…" not in stream.getvalue()
    assert "background: of pixels" in " ".join(stream.getvalue().split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fp32"], "model.fp16.onnx holds a fp16 network, not fp32; drop --fp32"),
        (["--int8"], "model.fp16.onnx holds a fp16 network, not int8; drop --int8"),
        (["--fp32", "--fp16"], "has one precision, and --fp32 --fp16 ask for 2; evaluate the run"),
    ],
)
def test_a_named_file_is_refused_with_other_precisions_than_its_own(
    fcn_deploy: FcnDeploy, tiny_run: Path, words: list[str], said: str
) -> None:
    file = Run(tiny_run).onnx(Precision.FP16)
    refused(fcn_deploy("evaluate", file, *words, "--json", "e.json"), said)
    assert not Path("e.json").exists()


@pytest.mark.parametrize("words", [[], ["--fp16"]])
def test_a_named_file_is_evaluated_in_its_own_precision(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, words: list[str]
) -> None:
    data = write_data(tmp_path / "data", TINY_CLASS_NAMES, count=1)
    options = ["--data", data, "--split", "test", "--threads", "1", "--json", "e.json", *words]
    fcn_deploy("evaluate", Run(tiny_run).onnx(Precision.FP16), *options).succeeded()
    (row,) = read_json(Path("e.json"), "")["results"]
    assert row["runner"]["precision"] == "fp16"


def test_a_named_engine_is_refused_with_another_precision(
    evaluate: Evaluate, opened: Opened, tmp_path: Path
) -> None:
    engine = tmp_path / "fcn.plan"
    engine.write_bytes(b"an engine")
    for precision in Precision:  # an engine is what it is, whatever is asked for
        opened["trt", precision] = FakeRunner(backend="trt", precision=Precision.INT8)
    words = (engine, "--backend", "trt")
    refused(evaluate(*words, "--fp16"), "fcn.plan holds a int8 network")
    refused(evaluate(*words, "--fp16", "--int8"), "has one precision")
    assert not Path("e.json").exists()
    evaluate(*words, "--int8").succeeded()


def test_without_data_and_without_a_training_the_repair_names_the_option(
    fcn_deploy: FcnDeploy, tiny_run: Path
) -> None:
    refused(fcn_deploy("evaluate", tiny_run), "--data DIR")
