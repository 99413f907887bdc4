"""The training loop: labelled images → checkpoint, figures per epoch, a preview to look at.

for each epoch
    for each batch ── examples ─▶ network ─▶ loss ─▶ gradient ─finite?─▶ TrainState.step
    validate at full image size, by the deploy graph's own path to a mask
    write the state, from which --resume goes on exactly; then checkpoint, figures, preview

Rank 0 touches the run directory; whatever is decided by a clock or a signal, all ranks agree on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import torch

from fcn_deploy.core.errors import DataError, InputError, TrainingStoppedError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, size_range
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.results.training import Epoch, Split, TrainingSetup
from fcn_deploy.training.distributed import World, lost_ranks_named
from fcn_deploy.training.plan import Progress, Provenance, TrainPlan
from fcn_deploy.training.recipes import SMALLEST_CROP
from fcn_deploy.training.run_files import TrainingFiles, forget_training
from fcn_deploy.training.train_state import ResumeState, save_state
from fcn_deploy.training.trainer import Trainer


def train(
    plan: TrainPlan,
    train_set: Dataset,
    val_set: Dataset,
    run: Run,
    *,
    world: World = World(),  # noqa: B008  # a frozen value
    state: ResumeState | None = None,
    provenance: Provenance = Provenance(),  # noqa: B008  # likewise
    tensorboard: bool = False,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network; after each epoch the run holds whole checkpoints, figures and previews.

    Args:
        plan: how to train.
        train_set: the images to learn from, none smaller than the crop.
        val_set: the images to score on, any size.
        run: where to write.
        world: the processes that train together; rank 0 writes.
        state: where an earlier start of the same run stands, to go on from there.
        provenance: what began the run, kept in its state and its figures.
        tensorboard: write event files.
        on_batch: told after every batch.
        on_epoch: told after every epoch, once its files are written.

    Raises:
        DataError: no examples, or the two sets' classes differ.
        ArchitectureError, CheckpointError: the starting weights cannot be used.
        ArtifactError: ``state`` is of another network, or a place cannot be written.
        BackendError: TensorBoard files were asked for and cannot be written.
        InputError: ``state`` is of other data, another device or another number of processes.
        TrainingError: loss, gradient or weights are NaN or infinite, or another process was lost;
            the last whole checkpoint stays, and the state to resume from.
        TrainingStoppedError: a signal asked for an end.
    """
    _check(plan, train_set, val_set, world)
    spec = _model_spec(plan, train_set)
    with _determinism(plan.deterministic), lost_ranks_named(world), ExitStack() as stack:
        stop = stack.enter_context(_stop_requests())
        trainer = Trainer(plan, spec, train_set, val_set, world, run, stop)
        stack.callback(trainer.close)
        if state is not None:
            trainer.resume(state)
        elif world.leads:
            forget_training(run)
        writer = _RunWriter(trainer, run, provenance)
        if world.leads:
            stack.callback(writer.close)
            setup = _setup(plan, world, provenance, train_set, val_set)
            writer.open(setup, tensorboard=tensorboard)
        if state is None:
            writer.save_state()  # so that what is not there is known to be finished, or never begun
        if trainer.between_epochs:
            writer.write_epoch()  # it may have been killed after the state was written
        while not trainer.finished:
            on_epoch(_train_epoch(trainer, writer, on_batch))
        writer.finish()
    return trainer.epochs


def _model_spec(plan: TrainPlan, train_set: Dataset) -> ModelSpec:
    return ModelSpec(
        architecture=plan.architecture,
        class_names=train_set.class_names,
        palette=voc_palette(len(train_set.class_names)),
        image_sizes=size_range(train_set),
    )


def _train_epoch(
    trainer: Trainer, writer: _RunWriter, on_batch: Callable[[Progress], None]
) -> Epoch:
    """Train and validate the rest of an epoch; write its files."""
    for progress in trainer.learn():
        on_batch(progress)
        if trainer.stopping or trainer.save_due:
            trainer.require_finite()
            writer.save_state()
        if trainer.stopping:
            raise TrainingStoppedError(
                f"stopped by a signal in epoch {progress.epoch}, batch {progress.batch}",
                "go on with the same command and --resume",
            )
    trainer.require_finite()
    epoch = trainer.validated()
    writer.save_state()
    writer.write_epoch()
    return epoch


class _RunWriter:
    """Writes where a training stands and what its epochs leave behind, on rank 0 alone.

    All ranks have to call its methods: what is written is gathered from all of them.
    """

    def __init__(self, trainer: Trainer, run: Run, provenance: Provenance) -> None:
        self._trainer, self._run = trainer, run
        self._provenance = provenance
        self._files: TrainingFiles | None = None

    def open(self, setup: TrainingSetup, *, tensorboard: bool) -> None:
        """Let this rank write."""
        done = len(self._trainer.epochs) - self._trainer.between_epochs
        self._files = TrainingFiles(self._run, setup, tensorboard=tensorboard, done=done)

    def save_state(self) -> None:
        """Write the state from which ``--resume`` goes on."""
        state = self._trainer.state(self._provenance)
        if self._files is not None:
            save_state(self._run.state, state)

    def write_epoch(self) -> None:
        """Write the files of the last finished epoch."""
        preview = self._trainer.preview()
        if self._files is not None:
            result, epochs = self._trainer.learner.result, self._trainer.epochs
            self._files.write(result, self._trainer.spec, epochs, preview)

    def finish(self) -> None:
        """Remove the state: nothing is left to resume."""
        if self._files is not None:
            self._run.state.unlink(missing_ok=True)

    def close(self) -> None:
        """Finish the event files."""
        if self._files is not None:
            self._files.close()


def _setup(
    plan: TrainPlan, world: World, provenance: Provenance, train_set: Dataset, val_set: Dataset
) -> TrainingSetup:
    read = len(train_set) + provenance.dropped
    return TrainingSetup(
        **plan.to_json(),
        options=provenance.options,
        processes=world.size,
        class_names=train_set.class_names,
        data_argument=provenance.data_argument,
        splits=(
            Split("train", train_set.source, read, provenance.dropped),
            Split("val", val_set.source, len(val_set), 0),
        ),
    )


def _check(plan: TrainPlan, train_set: Dataset, val_set: Dataset, world: World) -> None:
    height, width = plan.recipe.crop_size
    if min(height, width) < SMALLEST_CROP:
        raise InputError(
            f"crop {height}x{width} is too small", f"use at least {SMALLEST_CROP}x{SMALLEST_CROP}"
        )
    if len(train_set) == 0:
        raise DataError(
            f"no training image of {train_set.source} is as large as the crop {height}x{width}",
            "use a smaller --crop-size",
        )
    if len(val_set) == 0:
        raise DataError(f"no validation images in {val_set.source}", "add some to val.txt")
    if train_set.class_names != val_set.class_names:
        raise DataError(f"{train_set.source} and {val_set.source} name different classes")
    together = plan.recipe.batch_size * world.size
    if world.size > 1 and len(train_set) < together:
        raise DataError(
            f"{len(train_set)} training images are fewer than one batch of all processes, "
            f"{together}",
            "use a smaller --batch-size or fewer processes",
        )


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C was pressed or the process told to end: then a batch is finished first.

    A second Ctrl-C ends at once.
    """
    asked = False

    def remember(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        older = {number: signal.signal(number, remember) for number in _SIGNALS}
    except ValueError:  # not the main thread, which alone hears signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for number, handler in older.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _determinism(asked: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if asked:  # cuBLAS reads it when it is loaded
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(asked or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
