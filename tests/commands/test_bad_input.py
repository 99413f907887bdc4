"""What several commands refuse: each bad input with one line and exit code 2."""

import os
import pickle
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK


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
        *(
            ([*command, "--fp16", "--int8"], ["--fp16 and --int8", "give one of them"])
            for command in (["export"], ["build"], ["parity"], ["predict", "x.png"])
        ),
        (["predict", "x.png", "--threads", "99999"], ["--threads 99999 is too many", "at most"]),
        (["train", "--workers", "99999"], ["--workers 99999 is too many", "at most"]),
        (["train", "--resume", "--overwrite"], ["give one of them"]),
        (["bench", "--max-slowdown", "5%"], ["--max-slowdown is of use with --compare only"]),
        (["bench", "--compare", "nope.json"], ["cannot read nope.json", "check the path"]),
        (["report", "nope.json"], ["cannot read nope.json", "check the path"]),
        (["scenes", "s", "--size", "3"], ["e.g. 320x480. See `fcn-deploy scenes --help`"]),
    ],
)
def test_bad_words(
    fcn_deploy: FcnDeploy, few_scenes: None, command: list[str], words: list[str]
) -> None:
    refused(fcn_deploy(*command), *words)


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("kind", ["truncated", "pickle", "text", "empty"])
def test_bad_checkpoints(fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with (tiny_run / "model.safetensors").open("rb") as whole:
        content = {
            "truncated": whole.read(100_000),
            "pickle": pickle.dumps(_Evil()),
            "text": b"hello, I am a text file, not a checkpoint",
            "empty": b"",
        }[kind]
    (run / "model.safetensors").write_bytes(content)
    (run / "model.onnx").write_bytes(b"of another day")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for words in (
        ("export", run),
        ("predict", run, "--backend", "torch", "a.png"),
        ("train", "--weights", run / "model.safetensors", *QUICK),
    ):
        refused(fcn_deploy(*words), "model.safetensors")
    assert (run / "model.onnx").read_bytes() == b"of another day"
    assert not (tmp_path / "executed").exists()


def test_an_onnx_file_that_is_not_ours(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").symlink_to(tiny_run / "model.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0anonsense" * 20)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    for words in (("parity", ".", "--images", "a.png"), ("bench", "."), ("predict", ".", "a.png")):
        refused(fcn_deploy(*words, "--backend", "ort"), "model.onnx")


def test_an_output_folder_that_cannot_be_written(
    fcn_deploy: FcnDeploy, tiny_run: Path, few_scenes: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(fcn_deploy("train", "--out", "file/run", *QUICK), "cannot write", "--out")
    refused(fcn_deploy("export", tiny_run, "--out", "file/m.onnx"), "cannot write", "--out")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    refused(fcn_deploy("predict", tiny_run, "a.png", "--out", "file"), "cannot write", "--out")


def test_only_options_that_a_command_has_are_named(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    checked = fcn_deploy("data", "check", "synthetic", "--json", "file/check.json")
    refused(checked, "cannot write", "choose another place with --json\n")
    assert checked.out == ""  # before minutes are spent
    refused(fcn_deploy("scenes", "file/scenes"), "cannot write", "choose another place\n")
    assert fcn_deploy("train", "--data", "nowhere").out == ""


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
) -> None:
    Image.new("RGB", (8, 8)).save("photo.png")
    words = [str(tiny_run) if word == "RUN" else word for word in words]
    done = fcn_deploy(*words, "--device", "cuda")
    refused(done, "runs on the CPU", "drop --device cuda, or use --backend ort-cuda")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
