"""``fcn-deploy train`` as it is typed: what is resumed, refused, and kept of the words."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.results.read import read_results
from fcn_deploy.training import trainer
from tests.command_line import FcnDeploy
from tests.commands.quick_training import QUICK
from tests.conftest import WriteVocFolder

SMALL = ("--recipe", "tutorial", "--crop-size", "64x64", "--batch-size", "2", "--amp", "off")


@pytest.fixture
def data(voc_folder: WriteVocFolder) -> Path:
    return voc_folder(train=4, val=1, size=(80, 112))


def stop_in_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system ask for an end while that batch is learned."""
    calls: list[None] = []
    loss = trainer.segmentation_loss

    def told(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*arguments)

    monkeypatch.setattr(trainer, "segmentation_loss", told)


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_it_was_begun(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    begun = ("train", "--data", data, "--out", out, *SMALL, "--epochs", "2", "--lr", "0.002")
    with monkeypatch.context() as patched:
        stop_in_batch(3, patched)
        stopped = fcn_deploy(*begun)
    assert stopped.code == 130
    assert "stopped by a signal in epoch 2, batch 1" in stopped.err
    assert "--resume" in stopped.err

    unasked = fcn_deploy(*begun)
    assert unasked.code == 2
    assert "unfinished training run" in unasked.err
    other = fcn_deploy("train", "--out", out, "--resume", "--lr", "0.5")
    assert other.code == 2
    assert "begun with --lr 0.002, not 0.5" in other.err

    elsewhere = fcn_deploy("train", "--out", out, "--resume", "--data", "synthetic")
    assert elsewhere.code == 2
    assert f"begun with --data {data.resolve()}, not synthetic" in elsewhere.err

    # Its options need not be said again; a folder may be named otherwise.
    resumed = fcn_deploy("train", "--out", out, "--resume", "--data", "data")
    assert resumed.code == 0, resumed.err
    assert f"resuming {out} at epoch 2, batch 2" in resumed.out
    assert "epoch 2/2" in resumed.out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["recipe"]["lr"] == 0.002
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2]

    again = fcn_deploy(*begun, "--resume")
    assert again.code == 0
    assert "is finished: nothing to resume" in again.out
    more = fcn_deploy("train", "--out", out, "--resume", "--epochs", "5")
    assert more.code == 2
    assert "is finished, with 2 epochs, not 5; " in more.err
    assert "--weights" in more.err
    (command, *_) = repeat_commands(read_results(Run(out)))
    assert command == (
        f"fcn-deploy train --out '{out}' --data {data.resolve()} --recipe tutorial --epochs 2 "
        "--batch-size 2 --crop-size 64x64 --lr 0.002 --amp off"
    )


def test_resume_begins_where_nothing_was_begun(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path
) -> None:
    words = ("train", "--data", data, "--out", tmp_path / "new", *SMALL, "--epochs", "1")
    done = fcn_deploy(*words, "--resume", "--freeze-backbone", "--patience", "3", "--ema", "0")
    assert done.code == 0, done.err
    assert "nothing to resume" in done.out
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics["freeze_epochs"] == 1
    assert " ".join(metrics["options"]).endswith(
        "--ema 0.0 --freeze-backbone all --patience 3 --amp off"
    )


def test_a_model_that_was_not_trained_here_is_not_finished(
    fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").touch()
    done = fcn_deploy("train", "--out", tmp_path, "--resume")
    assert done.code == 2
    assert "was not trained here: nothing to resume" in done.err
    assert "--weights" in done.err


def test_a_run_that_is_replaced_leaves_nothing_beside_the_new_one(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    old = ("last.safetensors", "previews/epoch-009.png", "tensorboard/events.out.tfevents.1.a")
    for name in (*old, "model.safetensors", "previews/mine.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    words = ("train", "--data", data, "--out", out, *SMALL, "--lr", "1e30", "--overwrite")
    done = fcn_deploy(*words)
    assert done.code == 2
    assert "the weights were spoiled" in done.err or "the loss became" in done.err
    assert not any((out / name).exists() for name in old)
    assert (out / "model.safetensors").exists()  # until there is a better one
    assert (out / "previews/mine.txt").exists()


def test_tensorboard_reads_what_is_written(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    words = ("train", "--data", data, "--out", out, *SMALL, "--epochs", "2", "--tensorboard")
    assert fcn_deploy(*words).code == 0
    (file,) = (out / "tensorboard").iterdir()
    content = file.read_bytes()
    for tag in (b"loss/train", b"mIoU/val", b"learning_rate", b"image_prediction_truth"):
        assert content.count(tag) >= 2, tag


def test_a_missing_tensorboard_writer_is_named_before_the_work(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    out = tmp_path / "run"
    done = fcn_deploy("train", "--data", data, "--out", out, *SMALL, "--tensorboard")
    assert done.code == 2
    assert "pip install 'fcn-deploy[tensorboard]'" in done.err
    assert not (out / "state.pt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--amp", "fp16"), "--amp bf16"),
        (("--freeze-backbone", "0"), "number of epochs"),
        (("--arch", "fcn9s-resnet18"), "fcn32s|fcn16s|fcn8s"),
        (("--arch", "tv-fcn-resnet50", "--output-stride", "16"), "drop --output-stride"),
        (("--schedule", "cosine"), "one-cycle"),
        (("--ema", "1"), "--ema"),
        (("--download",), "--download fetches VOC 2012 alone"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_repair(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = fcn_deploy("train", "--data", data, "--out", tmp_path / "run", "--device", "cpu", *words)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_example_in_both_lists_is_refused(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path
) -> None:
    (data / "ImageSets/Segmentation/val.txt").write_text("val_0\ntrain_2\n")
    done = fcn_deploy("train", "--data", data, "--out", tmp_path / "run", *SMALL)
    assert done.code == 2
    assert "train_2 is both a training and a validation example" in done.err


def test_voc_2012_that_is_not_there(
    fcn_deploy: FcnDeploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = fcn_deploy("train", "--data", "voc2012")
    assert done.code == 2
    assert "--download" in done.err


def test_an_output_stride_names_the_network(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = (*SMALL, "--epochs", "1", "--output-stride", "16", "--arch", "fcn8s-resnet18")
    assert fcn_deploy("train", "--data", data, "--out", out, *words).code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["architecture"] == "fcn8s-resnet18-os16"
    # The tutorial's own figure stands beside that of whole images.
    (epoch,) = metrics["epochs"]
    assert 0 <= epoch["val_crops_pixel_accuracy"] <= 1
    # As weights to start from it is known by that name.
    again = fcn_deploy(
        "train", "--data", data, "--out", tmp_path / "b", *SMALL, "--epochs", "1", "--arch",
        "fcn8s-resnet18-os16", "--weights", out / "model.safetensors",
    )  # fmt: skip
    assert again.code == 0, again.err


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
