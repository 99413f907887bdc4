from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.run import Run
from fcn_deploy.training.run_files import TrainingFiles, forget_training, refuse_existing


def test_an_older_checkpoint_is_not_replaced_unasked(
    tmp_path: Path, one_line: Callable[[Exception], str]
) -> None:
    run = Run(tmp_path)
    refuse_existing(run, overwrite=False)  # nothing is there yet
    run.checkpoint.write_bytes(b"weeks of training")
    with pytest.raises(ArtifactError, match="exists already") as caught:
        refuse_existing(run, overwrite=False)
    assert "--overwrite" in one_line(caught.value)
    refuse_existing(run, overwrite=True)
    assert run.checkpoint.read_bytes() == b"weeks of training"


def test_an_unfinished_training_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.state.write_bytes(b"epoch 30 of 60")
    with pytest.raises(ArtifactError, match=r"unfinished training run; go on with --resume"):
        refuse_existing(run, overwrite=False)
    refuse_existing(run, overwrite=True)
    assert run.state.exists()


def test_of_an_earlier_training_only_what_the_new_one_replaces_later_is_left(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path)
    gone = (run.last_checkpoint, run.preview_of(9), run.events / "events.out.tfevents.1")
    kept = (run.checkpoint, run.metrics, run.preview_of(1).with_name("mine.png"))
    for path in (*gone, *kept):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    forget_training(run)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_curves_beyond_the_place_of_a_resumed_run_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("tensorboardX")
    asked: list[int | None] = []
    monkeypatch.setattr(
        library, "SummaryWriter", lambda _, *, purge_step: asked.append(purge_step) or Mock()
    )
    for done in (0, 3):
        TrainingFiles(Run(tmp_path), Mock(), tensorboard=True, done=done).close()
    assert asked == [None, 4]
