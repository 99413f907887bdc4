"""`train --resume`: the options, the state and the command line that a run was begun with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.train_options import TrainOptions, amp, data_source, options_given
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run

if TYPE_CHECKING:
    import torch

    from fcn_deploy.training.train_state import ResumeState


@dataclasses.dataclass(frozen=True)
class BegunTraining:
    """A run to begin or to go on with, as rank 0 found it.

    Attributes:
        options: with the data's folder, the device and the arithmetic that they led to.
        state: where an earlier start stands, or None.
        typed: the same options as words of the command line that began it.
    """

    options: TrainOptions
    state: ResumeState | None
    typed: tuple[str, ...]


def resume_point(
    context: click.Context, typed: TrainOptions, run: Run, device: torch.device
) -> BegunTraining | None:
    """Look at the run directory and the data; None if the run is finished.

    Raises:
        FcnDeployError: it holds another run than is asked for, or the data is not there.
    """
    from fcn_deploy.training.run_files import refuse_existing

    state = None
    if not typed.resume:
        refuse_existing(run, overwrite=typed.overwrite)
    else:
        state = _unfinished(run)
        if state is None and run.checkpoint.exists():
            _require_finished(run, typed)
            return None
        if state is None:
            console.print(f"nothing to resume in {run.root}: beginning")
    asked = state is None or typed.data is not None
    options = dataclasses.replace(
        typed,
        data=data_source(typed) if asked else None,
        device=device.type,
        amp=amp(typed.amp, device),
    )
    if state is None:
        words = options_given(context, typed, str(options.data))
        return BegunTraining(options, None, tuple(words))
    begun = merge_options(context, options, state.arguments)
    console.print(f"resuming {run.root} at epoch {state.epoch}, batch {state.sums.batches + 1}")
    return BegunTraining(begun, state, state.options)


def _unfinished(run: Run) -> ResumeState | None:
    from fcn_deploy.training.train_state import load_state

    return load_state(run.state) if run.state.is_file() else None


def _require_finished(run: Run, typed: TrainOptions) -> None:
    """Check that a run without a state was finished, by us, as it is asked for.

    The state is written before the first checkpoint, and deleted last.

    Raises:
        InputError: there is more to do than resuming can.
    """
    from fcn_deploy.results.read import read_training

    weights = f"--weights {run.checkpoint} --out NEW"
    if not run.metrics.is_file():
        raise InputError(
            f"{run.checkpoint} was not trained here: nothing to resume", f"start from it: {weights}"
        )
    epochs = read_training(run, "train anew with --overwrite").recipe.get("epochs")
    if typed.epochs is not None and typed.epochs != epochs:
        raise InputError(
            f"{run.root} is finished, with {epochs} epochs, not {typed.epochs}",
            f"its schedule has ended: start from it with {weights}, or train anew with --overwrite",
        )


def merge_options(
    context: click.Context, typed: TrainOptions, saved: Mapping[str, Any]
) -> TrainOptions:
    """Return the options that the run was begun with; what was typed now must be the same.

    Raises:
        InputError: it is not.
    """
    for name, value in typed.to_json().items():
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        # The device is not for the state to choose: all processes had to know it before.
        if (given or name == "device") and name in saved and saved[name] != value:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise InputError(
                f"the run was begun with {option} {saved[name]}, not {value}",
                f"add {option} {saved[name]}"
                if name == "device"
                else f"drop {option}: a resumed run goes on as it was begun; to go on otherwise, "
                "start from its weights: --weights RUN/last.safetensors --out NEW",
            )
    return typed.taken_from(saved)
