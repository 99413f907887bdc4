"""Which run and which backends a command takes, and how they are opened."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from fcn_deploy.commands.shared.console import build_bar, console
from fcn_deploy.core.errors import BackendError, InputError, OnnxFileError, UnfitNetworkError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from contextlib import ExitStack

    from fcn_deploy.results.runner import RunnerDescription
    from fcn_deploy.runners.base import Runner

_Opened = TypeVar("_Opened")


def usable_backends(
    precision: Precision, skipped: Collection[str] = (), source: Run | None = None
) -> tuple[str, ...]:
    """Return the backends that run files of a precision here unasked; the others are named.

    Args:
        precision: of the files.
        skipped: backends that are not taken, and not named.
        source: their run; of one that was imported from ONNX, and of a bundle, PyTorch runs
            nothing.
    """
    from fcn_deploy.runners.base import BACKENDS, find_backend

    if source is not None and (source.is_foreign or source.bundle is not None):
        skipped = {*skipped, *(name for name in BACKENDS if name.startswith("torch"))}
    found = [find_backend(name) for name in BACKENDS if name not in skipped]
    considered = [backend for backend in found if not backend.on_request]
    usable = tuple(
        backend.name
        for backend in considered
        if backend.unavailable_reason() is None and backend.takes(precision)
    )
    if not usable:
        raise InputError("no backend runs on this machine", "see `fcn-deploy doctor`")
    left_out = [backend.name for backend in considered if backend.name not in usable]
    if left_out:
        console.print(f"left out: {', '.join(left_out)} (`fcn-deploy doctor` says why)")
    return usable


def opened_unasked(
    foreign: bool,
    backends: Sequence[str],
    open_one: Callable[[str], _Opened],
    *,
    unasked: bool = False,
) -> dict[str, _Opened]:
    """Open backends that nobody asked for by name; those that refuse the network are named.

    Args:
        foreign: whether the graph is another tool's, of which some may be refused.
        backends: that work here.
        open_one: opens the backend of a name.
        unasked: whether nobody asked for them, so that one may be unfit for the network.

    Raises:
        FcnDeployError: none of them opens, or one refuses a graph of ours.
    """
    found: dict[str, _Opened] = {}
    for name in backends:
        try:
            found[name] = open_one(name)
        except (BackendError, OnnxFileError) as error:
            may_refuse = foreign or (unasked and isinstance(error, UnfitNetworkError))
            if not may_refuse or (name == backends[-1] and not found):
                raise
            console.print(f"left out: {name}, which does not take this network: {error.message}")
    return found


def default_backend(source: Run, precision: Precision) -> str:
    """Return ``ort`` where the run has been exported, else ``torch`` where float32 is wanted.

    An export in half precision is checked for numbers that overflow; PyTorch's halves are not.

    Raises:
        MissingStageError: naming the export that is missing.
    """
    from fcn_deploy.runners.base import unavailable_reason

    if source.onnx(precision).is_file():
        return "ort"
    if precision is not Precision.FP32 or unavailable_reason("torch") is not None:
        source.require_onnx(precision)
    return "torch"


def require_backends(backends: Sequence[str], device: str = "auto") -> None:
    """Refuse a list of backends of which one is unknown or does not work here.

    Args:
        backends: that are to be opened.
        device: that was asked for; refused where none of them can run on it.
    """
    from fcn_deploy.runners.base import find_backend, require_backend

    refusals = [find_backend(name).refusal_of(device) for name in backends]
    if refusals and refusals[0] is not None and all(refusals):
        raise refusals[0]
    for name in backends:  # all, before the first of them is measured
        require_backend(name)


def open_backend(
    source: Run,
    backend: str,
    *,
    precision: Precision = Precision.FP32,
    outputs: Sequence[str] = ("mask",),
    device: str = "auto",
    threads: int | None = None,
) -> Runner:
    """Open a runner; where it lacks a file that can be built here, build that first, and say so.

    Args:
        source: the run.
        backend: its name.
        precision: of the file to take.
        outputs: of ``mask``, ``logits``, ``margin``.
        device: of those backends that take one; see :func:`require_backends`.
        threads: CPU threads.
    """
    from fcn_deploy.core.spec import ordered_outputs
    from fcn_deploy.runners.base import OpenRequest, find_backend, open_runner

    found = find_backend(backend)
    if found.build_missing is not None and found.unavailable_reason() is None:
        request = OpenRequest(source, precision, ordered_outputs(outputs), threads)
        with build_bar() as on_progress:
            found.build_missing(request, console.print, on_progress)
    return open_runner(
        source,
        backend,
        precision=precision,
        outputs=outputs,
        threads=threads,
        device=found.device_of(device),
    )


def say_unusual(runners: Iterable[RunnerDescription]) -> None:
    """Warn of what is unusual about runners when they are done: on stderr, a line each.

    Args:
        runners: as they describe themselves behind their last batch.
    """
    for runner in dict.fromkeys(runners):
        if runner.note is not None:
            click.echo(f"warning: {runner.backend}: {runner.note}", err=True)
        graphs = runner.cuda_graphs
        if graphs is not None and graphs.refused:
            click.echo(
                f"warning: {runner.backend}: {graphs.refused} times no CUDA graph could be made "
                f"({graphs.recorded} times one was): such batches are enqueued plainly, which "
                "costs host time",
                err=True,
            )


def open_baselines(
    source: Run, threads: int, runners: Sequence[Runner], stack: ExitStack
) -> list[Runner]:
    """Open the plain export where the runners are: on the CPU, on the GPU, or on both.

    It is made on the spot where PyTorch is there; where it cannot be had, that is said.
    """
    from fcn_deploy.results.runner import CPU_BASELINE, GPU_BASELINE

    on_gpu = {runner.describe().on_gpu for runner in runners}
    wanted = [
        name for name, there in ((CPU_BASELINE, False), (GPU_BASELINE, True)) if there in on_gpu
    ]
    opened = [_open_baseline(source, name, threads) for name in wanted]
    return [stack.enter_context(baseline) for baseline in opened if baseline is not None]


def _open_baseline(source: Run, backend: str, threads: int) -> Runner | None:
    from fcn_deploy.networks.device import missing_torch
    from fcn_deploy.runners.base import open_runner, unavailable_reason

    if (reason := unavailable_reason(backend)) is not None:
        console.print(f"{backend} is left out: {reason}")
        return None
    if missing_torch("the plain export") is None and source.checkpoint.is_file():
        from fcn_deploy.export.baseline import ensure_baseline

        ensure_baseline(source)
    if not source.is_foreign and not source.baseline_onnx.is_file():
        console.print(
            f"{backend} is left out: its plain export is made where PyTorch and the checkpoint "
            f"are; copy {source.baseline_onnx} from there"
        )
        return None
    return open_runner(source, backend, threads=threads)
