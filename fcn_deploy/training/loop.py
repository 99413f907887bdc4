"""The training loop: labelled images → checkpoint, figures per epoch, a preview to look at.

for each epoch
    for each batch ── examples ─▶ network ─▶ loss ─▶ gradient ─finite?─▶ learner.step
    validate at full image size, by the deploy graph's own path to a mask
    write the state, from which --resume goes on exactly; then checkpoint, figures, preview

Rank 0 touches the run directory; whatever is decided by a clock or a signal, all ranks agree on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_deploy.core.errors import DataError, InputError, TrainingStoppedError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import Dataset, size_range
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.training.distributed import World, lost_ranks_named
from fcn_deploy.training.plan import DataCounts, Progress, TrainPlan
from fcn_deploy.training.recipes import SMALLEST_CROP
from fcn_deploy.training.run_files import Epoch, TrainingFiles
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
    arguments: Mapping[str, Any] | None = None,
    data_argument: str | None = None,
    options: Sequence[str] = (),
    dropped: int = 0,
    tensorboard: bool = False,
    on_batch: Callable[[Progress], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network; after each epoch the run holds whole checkpoints, figures and previews.

    Args:
        plan: what to do.
        train_set: the images to learn from, none smaller than the crop.
        val_set: the images to score on, any size.
        run: where to write.
        world: the processes that train together; rank 0 writes.
        state: where an earlier start of the same run stands, to go on from there.
        arguments: what the run was started with, kept in its state.
        data_argument: how the user named the data, so that later stages find it again.
        options: of the command line, to repeat it.
        dropped: examples left out of ``train_set`` as smaller than the crop, for the record.
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
    spec = ModelSpec(
        architecture=plan.architecture,
        class_names=train_set.class_names,
        palette=voc_palette(len(train_set.class_names)),
        image_sizes=size_range(train_set),
    )
    about = {
        **plan.to_json(),
        "options": list(options),
        "processes": world.size,
        "class_names": list(spec.class_names),
        "data_argument": data_argument,
        "data": {
            "train": asdict(DataCounts(train_set.source, len(train_set) + dropped, dropped)),
            "val": asdict(DataCounts(val_set.source, len(val_set), 0)),
        },
    }
    with ExitStack() as stack:
        stack.enter_context(_determinism(plan.deterministic))
        stack.enter_context(lost_ranks_named(world))
        stop = stack.enter_context(_stop_requests())
        course = Trainer(plan, spec, train_set, val_set, world, run, stop)
        stack.callback(course.close)
        between_epochs = False
        if state is not None:
            course.resume(state)
            between_epochs = state.sums.batches == 0 and len(course.epochs) > 0
        elif world.leads:
            run.forget_training()
        files = None
        if world.leads:
            done = len(course.epochs) - between_epochs
            files = TrainingFiles(run, about, tensorboard=tensorboard, done=done)
            stack.callback(files.close)

        def save() -> None:
            now = course.state(arguments or {})
            if world.leads:
                save_state(run.state, now)

        def write(preview: NDArray[np.uint8] | None) -> None:
            if files is not None:
                files.write(course.learner.result, spec, course.epochs, preview)

        if state is None:
            save()  # so that what is not there is known to be finished, or never begun
        if between_epochs:
            write(course.preview())  # it may have been killed after the state was written
        while not course.finished:
            for progress in course.learn():
                on_batch(progress)
                if course.stopping or course.save_due:
                    course.require_finite()
                    save()
                if course.stopping:
                    raise TrainingStoppedError(
                        f"stopped by a signal in epoch {progress.epoch}, batch {progress.batch}",
                        "go on with the same command and --resume",
                    )
            course.require_finite()
            epoch = course.validated()
            save()
            write(course.preview())
            on_epoch(epoch)
        if world.leads:
            run.state.unlink(missing_ok=True)
    return course.epochs


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
