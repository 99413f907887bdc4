"""``fcn-deploy train`` as it is typed: what is resumed, refused, and kept of the words."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.run import Run
from fcn_deploy.networks.checkpoint import load_checkpoint
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.results.read import read_results
from fcn_deploy.training import trainer
from tests.command_line import FcnDeploy, Finished, refused
from tests.conftest import WriteVocFolder

SMALL = ("--recipe", "tutorial", "--crop-size", "64x64", "--batch-size", "2", "--amp", "off")


@pytest.fixture
def data(voc_folder: WriteVocFolder) -> Path:
    return voc_folder(train=4, val=1, size=(80, 112))


Train = Callable[..., Finished]


@pytest.fixture
def train(fcn_deploy: FcnDeploy, data: Path) -> Train:
    """Train on few small crops into the folder ``run``, unless the words say otherwise."""
    return lambda *words: fcn_deploy("train", "--data", data, "--out", "run", *SMALL, *words)


def metrics() -> dict[str, Any]:
    return read_json(Run(Path("run")).metrics, "")


def at_batch(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen while that batch is learned."""
    calls: list[None] = []
    loss = trainer.segmentation_loss

    def seen(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == number:
            act()
        return loss(*arguments)

    monkeypatch.setattr(trainer, "segmentation_loss", seen)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_it_was_begun(
    fcn_deploy: FcnDeploy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my run"
    begun = ("train", "--data", data, "--out", out, *SMALL, "--epochs", "2", "--lr", "0.002")
    with monkeypatch.context() as patched:
        at_batch(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patched)
        stopped = fcn_deploy(*begun)
    assert stopped.code == 130
    assert "stopped by a signal in epoch 2, batch 1" in stopped.err
    assert "--resume" in stopped.err

    refused(fcn_deploy(*begun), "unfinished training run")
    resume = ("train", "--out", out, "--resume")
    refused(fcn_deploy(*resume, "--lr", "0.5"), "begun with --lr 0.002, not 0.5")
    elsewhere = fcn_deploy(*resume, "--data", "synthetic")
    refused(elsewhere, f"begun with --data {data.resolve()}, not synthetic")

    # Its options need not be said again; a folder may be named otherwise.
    resumed = fcn_deploy(*resume, "--data", "data").succeeded()
    assert f"resuming {out} at epoch 2, batch 2" in resumed.out
    assert "epoch 2/2" in resumed.out
    written = read_json(out / "metrics.json", "")
    assert written["recipe"]["lr"] == 0.002
    assert [epoch["epoch"] for epoch in written["epochs"]] == [1, 2]

    again = fcn_deploy(*begun, "--resume").succeeded()
    assert "is finished: nothing to resume" in again.out
    more = fcn_deploy(*resume, "--epochs", "5")
    refused(more, "is finished, with 2 epochs, not 5; ", "--weights")
    (command, *_) = repeat_commands(read_results(Run(out)))
    assert command == (
        f"fcn-deploy train --out '{out}' --data {data.resolve()} --recipe tutorial --epochs 2 "
        "--batch-size 2 --crop-size 64x64 --lr 0.002 --amp off"
    )


def test_resume_begins_where_nothing_was_begun(train: Train) -> None:
    words = ("--epochs", "1", "--freeze-backbone", "--patience", "3", "--ema", "0")
    assert "nothing to resume" in train(*words, "--resume").succeeded().out
    assert metrics()["freeze_epochs"] == 1
    assert " ".join(metrics()["options"]).endswith(
        "--ema 0.0 --freeze-backbone all --patience 3 --amp off"
    )


def test_a_model_that_was_not_trained_here_is_not_finished(
    fcn_deploy: FcnDeploy, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").touch()
    done = fcn_deploy("train", "--out", tmp_path, "--resume")
    refused(done, "was not trained here: nothing to resume", "--weights")


def test_a_run_that_is_replaced_leaves_nothing_beside_the_new_one(train: Train) -> None:
    out = Path("run")
    old = ("last.safetensors", "previews/epoch-009.png", "tensorboard/events.out.tfevents.1.a")
    for name in (*old, "model.safetensors", "previews/mine.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    done = train("--lr", "1e30", "--overwrite")
    assert done.code == 2
    assert "the weights were spoiled" in done.err or "the loss became" in done.err
    assert not any((out / name).exists() for name in old)
    assert (out / "model.safetensors").exists()  # until there is a better one
    assert (out / "previews/mine.txt").exists()


def test_tensorboard_reads_what_is_written(train: Train) -> None:
    pytest.importorskip("tensorboardX")
    train("--epochs", "2", "--tensorboard").succeeded()
    (file,) = Path("run/tensorboard").iterdir()
    content = file.read_bytes()
    for tag in (b"loss/train", b"mIoU/val", b"learning_rate", b"image_prediction_truth"):
        assert content.count(tag) >= 2, tag


def test_a_missing_tensorboard_writer_is_named_before_the_work(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    refused(train("--tensorboard"), "pip install 'fcn-deploy[tensorboard]'")
    assert not Path("run/state.pt").exists()


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
    fcn_deploy: FcnDeploy, data: Path, words: tuple[str, ...], said: str
) -> None:
    done = fcn_deploy("train", "--data", data, "--out", "run", "--device", "cpu", *words)
    refused(done, said)
    assert not Path("run").exists()


def test_an_example_in_both_lists_is_refused(train: Train, data: Path) -> None:
    (data / "ImageSets/Segmentation/val.txt").write_text("val_0\ntrain_2\n")
    refused(train(), "train_2 is both a training and a validation example")


def test_voc_2012_that_is_not_there(fcn_deploy: FcnDeploy) -> None:
    refused(fcn_deploy("train", "--data", "voc2012"), "--download")


def test_an_output_stride_names_the_network(train: Train) -> None:
    train("--epochs", "1", "--output-stride", "16", "--arch", "fcn8s-resnet18").succeeded()
    assert metrics()["architecture"] == "fcn8s-resnet18-os16"
    # The tutorial's own figure stands beside that of whole images.
    (epoch,) = metrics()["epochs"]
    assert 0 <= epoch["val_crops_pixel_accuracy"] <= 1
    # As weights to start from it is known by that name.
    start = ("--arch", "fcn8s-resnet18-os16", "--weights", "run/model.safetensors")
    train("--out", "again", "--epochs", "1", *start).succeeded()


def test_ctrl_c_keeps_the_last_whole_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_batch(3, interrupt, monkeypatch)  # two batches an epoch
    finished = train("--epochs", "3")
    assert finished.code == 130
    assert "stopped" in finished.err
    checkpoint = Run(Path("run")).checkpoint
    assert load_checkpoint(checkpoint).spec.num_classes == 8
    assert len(metrics()["epochs"]) == 1
    assert metrics()["checkpoint_digest"] == file_digest(checkpoint)
