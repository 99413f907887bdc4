"""The commands as typed: the story end to end, and each bad input with one line and exit code 2."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy import cli
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.parity import gate
from fcn_deploy.runners.base import BACKENDS
from tests.command_line import FcnDeploy, refused
from tests.conftest import WriteVocFolder

QUICK = ["--epochs", "1", "--batch-size", "4", "--crop-size", "64x96"]


@pytest.fixture
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcn_deploy.data.scenes import dataset

    monkeypatch.setattr(dataset, "SCENE_COUNTS", {"train": 4, "val": 2})
    monkeypatch.setattr(dataset, "SCENE_SIZE", (96, 128))
    # the default of a dataclass field is bound at definition, so open() is replaced as a whole
    monkeypatch.setattr(
        dataset.SceneDataset,
        "open",
        classmethod(
            lambda cls, split: cls(
                dataset.SCENE_SEEDS[split], {"train": 4, "val": 8}[split], (96, 128)
            )
        ),
    )


def test_the_story(fcn_deploy: FcnDeploy, few_scenes: None, tmp_path: Path) -> None:
    trained = fcn_deploy("train", *QUICK)
    assert trained.code == 0, trained.err
    assert "training on the built-in synthetic scenes" in trained.out
    assert "read 4 training and 8 validation examples of 8 classes" in trained.out
    assert "epoch 1/1" in trained.out
    again = fcn_deploy("train", *QUICK)
    refused(again, "exists already", "--overwrite")

    assert fcn_deploy("export", "--fp16").code == 0
    exported = fcn_deploy("export")
    assert exported.code == 0, exported.err
    assert "masks checked against PyTorch" in exported.out

    compared = fcn_deploy("parity", "--backend", "ort")
    # one epoch leaves near ties, so the gate's verdict is free; that it was measured is not
    assert compared.code in (0, 1), compared.err
    content = json.loads((tmp_path / "runs/fcn/parity/ort.fp32.json").read_text())
    (result,) = content["results"]
    assert result["images"]["count"] == 8
    assert result["decided_flips"] == 0
    for view in result["pictures"][0]["views"].values():
        assert view.startswith("data:image/")

    measured = fcn_deploy(
        "bench", "--backend", "ort", "--size", "64x96", "--repeats", "3", "--seconds", "0.01",
        "--no-cold-start",
    )  # fmt: skip
    assert measured.code == 0, measured.err
    rows = json.loads((tmp_path / "runs/fcn/bench/ort.fp32.64x96.b1.json").read_text())["rows"]
    assert {row["runner"]["backend"] for row in rows} == {"ort", "baseline"}

    Image.new("RGB", (50, 40), (90, 60, 30)).save(tmp_path / "a.png")
    for backend in ("torch", "ort"):
        done = fcn_deploy("predict", "a.png", "--backend", backend, "--out", backend, "--overlay")
        assert done.code == 0, done.err
    masks = [np.asarray(Image.open(tmp_path / b / "a.png")) for b in ("torch", "ort")]
    assert masks[0].shape == (40, 50)
    assert (masks[0] == masks[1]).mean() > 0.99

    reported = fcn_deploy("report")
    assert reported.code == 0, reported.err
    assert "<html" in (tmp_path / "runs/fcn/report.html").read_text()


def test_doctor_names_every_backend(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy("doctor")
    assert finished.code == 0
    for word in ("cores", "python"):
        assert word in finished.out
    for backend in BACKENDS:
        assert re.search(rf"^  {backend}  +(works|no: )", finished.out, re.MULTILINE), backend


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["export"], ["fcn-deploy train"]),
        (["parity", "--backend", "ort"], ["fcn-deploy train"]),
        (["bench"], ["fcn-deploy train"]),
        (["predict", "x.png"], ["x.png"]),
        (["report"], ["fcn-deploy train"]),
        (["export", "nowhere"], ["no run nowhere", "fcn-deploy train --out nowhere"]),
        (["bench", "--backend", "nonsense"], ["nonsense", "torch"]),
        (["train", "--data", "nowhere"], ["no data folder", "nowhere; expected"]),
        (["train", "--arch", "fcn99"], ["fcn99", "fcn32s-resnet18"]),
        (["train", "--weights", "nowhere.pth"], ["nowhere.pth", "none"]),
        (["train", "--crop-size", "big"], ["320x480", "--help"]),
        (["train", "--crop-size", "32x32"], ["at least 64x64"]),
        (["train", "--crop-size", "900x900"], ["smaller --crop-size"]),
        (["train", "--epochs", "0"], ["--epochs"]),
        (["train", "--nonsense"], ["--nonsense"]),
        (["nonsense"], ["nonsense"]),
        (["train", "--seed", "99999999999999999999"], ["--seed"]),
        (["train", "--crop-size", "²x64"], ["320x480"]),
        (["parity", "--data", "x", "--images", "y"], ["exclude each other"]),
        (["predict", "runs/typo", "a.jpg"], ["no run runs/typo"]),
        (["build", "nowhere.onnx"], ["no file nowhere.onnx"]),
        (["bench", "--backend", "trt"], ["trt", "install"]),
        (["bench", "--batch", "1,x"], ["1,8"]),
        (["export", "--outputs", "maks"], ["maks", "logits"]),
    ],
)
def test_bad_words(
    fcn_deploy: FcnDeploy, few_scenes: None, command: list[str], words: list[str]
) -> None:
    refused(fcn_deploy(*command), *words)


def _missing_image(root: Path) -> None:
    (root / "JPEGImages/train_1.jpg").unlink()


def _missing_mask(root: Path) -> None:
    (root / "SegmentationClass/train_1.png").unlink()


def _other_size(root: Path) -> None:
    Image.new("P", (10, 10)).save(root / "SegmentationClass/train_1.png")


def _value_beyond_classes(root: Path) -> None:
    path = root / "SegmentationClass/train_1.png"
    width, height = Image.open(path).size
    Image.new("L", (width, height), 100).save(path)


def _truncated_image(root: Path) -> None:
    path = root / "JPEGImages/train_1.jpg"
    path.write_bytes(path.read_bytes()[:700])


def _text_for_image(root: Path) -> None:
    (root / "JPEGImages/train_1.jpg").write_text("not a picture")


def _empty_list(root: Path) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")


def _no_list(root: Path) -> None:
    (root / "ImageSets/Segmentation/val.txt").unlink()


def _empty_folder(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing_image, ["train_1"]),
        (_missing_mask, ["train_1", "mask"]),
        (_other_size, ["train_1", "96×128", "10×10"]),
        (_value_beyond_classes, ["train_1.png", "class 100"]),
        (_truncated_image, ["train_1.jpg"]),
        (_text_for_image, ["train_1.jpg", "not a picture"]),
        (_empty_list, ["train.txt", "empty"]),
        (_no_list, ["val.txt"]),
        (_empty_folder, ["is empty", "JPEGImages"]),
    ],
)
def test_bad_data(
    fcn_deploy: FcnDeploy,
    voc_folder: WriteVocFolder,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
) -> None:
    data = voc_folder(size=(96, 128))
    spoil(data)
    refused(fcn_deploy("train", "--data", data, *QUICK), *words)
    assert not (tmp_path / "runs/fcn/model.safetensors").exists()


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("kind", ["truncated", "pickle", "text", "empty"])
def test_bad_checkpoints(fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    content = {
        "truncated": (tiny_run / "model.safetensors").read_bytes()[:100_000],
        "pickle": pickle.dumps(_Evil()),
        "text": b"hello, I am a text file, not a checkpoint",
        "empty": b"",
    }[kind]
    (run / "model.safetensors").write_bytes(content)
    shutil.copy(tiny_run / "model.onnx", run)
    before = (run / "model.onnx").read_bytes()
    refused(fcn_deploy("export", run), "model.safetensors")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    refused(fcn_deploy("predict", run, "--backend", "torch", "a.png"), "model.safetensors")
    refused(
        fcn_deploy("train", "--weights", run / "model.safetensors", *QUICK), "model.safetensors"
    )
    assert (run / "model.onnx").read_bytes() == before
    assert not (tmp_path / "executed").exists()


def test_an_onnx_file_that_is_not_ours(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_run / "model.safetensors", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0anonsense" * 20)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    refused(fcn_deploy("parity", ".", "--backend", "ort", "--images", "a.png"), "model.onnx")
    refused(fcn_deploy("bench", ".", "--backend", "ort"), "model.onnx")
    refused(fcn_deploy("predict", ".", "--backend", "ort", "a.png"), "model.onnx")


def test_an_output_folder_that_cannot_be_written(
    fcn_deploy: FcnDeploy, tiny_run: Path, few_scenes: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(fcn_deploy("train", "--out", "file/run", *QUICK), "cannot write", "--out")
    refused(fcn_deploy("export", tiny_run, "--out", "file/m.onnx"), "cannot write", "--out")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    refused(fcn_deploy("predict", tiny_run, "a.png", "--out", "file"), "cannot write", "--out")


def test_a_full_disk_leaves_the_old_file(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(fcn_deploy("export", tiny_run, "--out", target), "disk is full")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_broken_pictures_are_reported_and_the_rest_goes_on(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (30, 20)).save(pictures / "good.png")
    (pictures / "bad.png").write_bytes(b"no")
    finished = fcn_deploy("predict", tiny_run, pictures, "--out", "masks")
    assert finished.code == 1
    assert len(finished.err.strip().splitlines()) == 1
    assert "bad.png" in finished.err
    assert "wrote 1 of 2 masks" in finished.out
    assert (tmp_path / "masks/good.png").is_file()
    refused(fcn_deploy("predict", tiny_run, pictures / "bad.png", "--out", "masks"), "bad.png")


def test_odd_pictures_are_handled(fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (5, 4)).save(tmp_path / "alpha.png")
    Image.new("L", (6, 4)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 7), 40_000, np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    names = ["alpha.png", "grey.png", "deep.png", "turned.jpg"]
    finished = fcn_deploy("predict", tiny_run, *names, "--out", "masks")
    assert finished.code == 0, finished.err
    sizes = [Image.open(tmp_path / "masks" / Path(n).with_suffix(".png")).size for n in names]
    assert sizes == [(5, 4), (6, 4), (7, 4), (4, 8)]


def test_a_failing_gate_is_exit_code_1(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.core.spec import Precision

    impossible = gate.Gate(min_agreement=1.1, max_relative_epsilon=1.0)
    monkeypatch.setitem(gate.GATES, Precision.FP32, impossible)
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "a.png")
    finished = fcn_deploy(
        "parity", tiny_run, "--backend", "ort", "--images", "a.png", "--json", "p.json"
    )
    assert finished.code == 1
    assert "THE GATE FAILS" in finished.out
    assert not json.loads((tmp_path / "p.json").read_text())["results"][0]["passed"]


def test_ctrl_c_keeps_the_last_whole_checkpoint(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch, few_scenes: None, tmp_path: Path
) -> None:
    from fcn_deploy.networks.checkpoint import load_checkpoint
    from fcn_deploy.training import trainer

    honest = trainer.segmentation_loss
    losses: list[object] = []

    def interrupted_in_the_second_epoch(*arguments: object) -> object:
        losses.append(None)
        if len(losses) == 2:  # one batch an epoch
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "segmentation_loss", interrupted_in_the_second_epoch)
    words = ["3" if word == "1" else word for word in QUICK]
    finished = fcn_deploy("train", *words)
    assert finished.code == 130
    assert "stopped" in finished.err
    assert load_checkpoint(tmp_path / "runs/fcn/model.safetensors").spec.num_classes == 8
    metrics = json.loads((tmp_path / "runs/fcn/metrics.json").read_text())
    assert len(metrics["epochs"]) == 1
    assert metrics["checkpoint_digest"] == file_digest(tmp_path / "runs/fcn/model.safetensors")


def test_debug_shows_the_traceback(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy("export", "nowhere", "--debug")
    assert finished.code == 2
    assert "Traceback" in finished.err


def test_no_baseline_without_pytorch_is_said(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcn_deploy: FcnDeploy
) -> None:
    shutil.copy(tiny_run / "model.onnx", tmp_path)
    monkeypatch.setattr("fcn_deploy.networks.device._import_error", ImportError("no torch"))
    finished = fcn_deploy(
        "bench", ".", "--backend", "ort", "--size", "32x32", "--seconds", "0.01", "--repeats", "3",
        "--no-cold-start",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "baseline is left out" in finished.out
    assert "not measured" in finished.out
    refused(fcn_deploy("export", "."), "fcn-deploy train")
    refused(fcn_deploy("parity", ".", "--backend", "ort", "--data", "synthetic"), "PyTorch")


def test_every_error_of_ours_is_one_line() -> None:
    error = FcnDeployError("a message\nof two lines", "a repair\nof two")
    assert cli._explain(error) == 2
    assert str(error) == "a message of two lines; a repair of two"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "RUN", "photo.png", "--out", "out"],
        ["bench", "RUN", "--backend", "ort", "--backend", "ncnn", "--json", "out"],
        ["parity", "RUN", "--backend", "ort", "--save-outputs", "out.json"],
    ],
    ids=lambda words: words[0],
)
def test_a_gpu_is_not_replaced_by_the_cpu_in_silence(
    words: list[str],
    fcn_deploy: FcnDeploy,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("photo.png")
    words = [str(tiny_run) if word == "RUN" else word for word in words]
    done = fcn_deploy(*words, "--device", "cuda")
    refused(done, "runs on the CPU", "drop --device cuda, or use --backend ort-cuda")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_predict_without_a_backend_names_the_export_where_pytorch_cannot_stand_in(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_run / "model.safetensors", run)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    done = fcn_deploy("predict", run, "a.png", "--out", "masks")
    assert "(torch on " in done.out
    refused(
        fcn_deploy("predict", run, "a.png", "--int8"),
        "model.int8.onnx",
        f"`fcn-deploy export {run} --int8`",
    )
    monkeypatch.setattr("fcn_deploy.networks.device._import_error", ImportError("no torch"))
    refused(fcn_deploy("predict", run, "a.png"), "model.onnx", f"`fcn-deploy export {run}`")


def test_run_argument_takes_files(tiny_run: Path) -> None:
    run = Run.from_argument(tiny_run / "model.onnx")
    assert run.root == tiny_run


def test_without_words_the_help_comes(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy()
    assert finished.code == 0
    assert "Usage: fcn-deploy" in finished.out


def test_parity_refuses_data_of_other_classes(
    fcn_deploy: FcnDeploy, tiny_run: Path, voc_folder: WriteVocFolder
) -> None:
    words = ["parity", tiny_run, "--backend", "ort", "--data"]
    refused(fcn_deploy(*words, voc_folder()), "8 classes", "the model 5 classes")


def test_export_never_writes_over_what_it_reads(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.fp16.onnx"):
        shutil.copy(tiny_run / name, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(fcn_deploy("export", ".", "--out", "model.safetensors"), ".onnx")
    assert fcn_deploy("export", "model.fp16.onnx").code == 0  # FP32, as no --fp16 was given
    assert (tmp_path / "model.onnx").is_file()
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content


def test_fp16_asked_of_a_float32_file_is_refused(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    finished = fcn_deploy("predict", tiny_run / "model.onnx", "a.png", "--fp16", "--out", "m")
    refused(finished, "fp32", "--fp16")


def test_a_damaged_baseline_is_made_anew(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(tiny_run / name, tmp_path)
    (tmp_path / "baseline.onnx").write_bytes(b"half a fi")
    quick = ["--size", "32x32", "--seconds", "0.01", "--repeats", "3", "--no-cold-start"]
    finished = fcn_deploy("bench", ".", "--backend", "ort", *quick)
    assert finished.code == 0, finished.err
    assert "baseline" in finished.out


def test_results_of_other_inputs_have_names_of_their_own(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(tiny_run / name, tmp_path)
    for folder in ("photos", "slides"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / folder / "a.png")
        fcn_deploy("parity", ".", "--backend", "ort", "--images", folder)
    names = sorted(path.name for path in (tmp_path / "parity").glob("*.json"))
    assert names == ["ort.fp32.photos.json", "ort.fp32.slides.json"]


def test_brackets_are_printed_as_they_are(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fcn_deploy.runners.base.unavailable_reason", lambda _: "pip install 'fcn-deploy[trt]'"
    )
    assert "fcn-deploy[trt]" in fcn_deploy("doctor").out


def test_scenes_are_data_that_train_takes(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    made = fcn_deploy("scenes", "data", "--train", "4", "--val", "2", "--size", "80x112")
    assert made.code == 0, made.err
    trained = fcn_deploy("train", "--data", "data", *QUICK)
    assert "read 4 training and 2 validation examples of 8 classes" in trained.out
    assert trained.code == 0, trained.err
    refused(fcn_deploy("scenes", "data"), "not empty")


def test_a_bug_of_ours_is_one_line_too(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("fcn_deploy.commands.doctor.diagnose", broken)
    finished = fcn_deploy("doctor")
    assert finished.code == 1
    assert len(finished.err.strip().splitlines()) == 1
    assert "--debug" in finished.err


def test_bisect_names_the_layer_where_an_overflow_starts(
    fcn_deploy: FcnDeploy, overflowing: Path, tmp_path: Path
) -> None:
    run = overflowing.parent
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    assert fcn_deploy("export", run).code == 0
    failed = fcn_deploy("export", run, "--fp16")
    assert failed.code == 1
    assert "--unchecked" in failed.err
    assert not (run / "model.fp16.onnx").exists()
    refused(fcn_deploy("parity", run, "--bisect", "--images", photos), "export", "--fp16")
    unchecked = fcn_deploy("export", run, "--fp16", "--unchecked")
    assert (unchecked.code, "NOT CHECKED" in unchecked.out) == (0, True)

    bisected = fcn_deploy("parity", run, "--bisect", "--images", photos)
    assert bisected.code == 1, bisected.err
    first = "network.body.layer2.0.conv1"
    assert f"first layer beyond its tolerance: {first} (NaN or infinite)" in bisected.out
    document = json.loads((run / "bisect/model.fp16.json").read_text())
    assert (document["kind"], document["first"]) == ("bisect", first)
    refused(fcn_deploy("parity", run, "--bisect", "--backend", "ort"), "drop --backend")
    refused(
        fcn_deploy("parity", run / "model.onnx", "--bisect", "--images", photos), "reference itself"
    )


def test_bisect_of_a_good_export_finds_nothing(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "a.png")
    words = ("--bisect", "--images", "a.png", "--json", "b.json")
    finished = fcn_deploy("parity", tiny_run, *words)
    assert finished.code == 0, finished.err
    assert "every layer keeps its tolerance" in finished.out
