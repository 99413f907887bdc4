"""Which run and which backends a command takes, and how they are opened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import build_bar, console
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from contextlib import ExitStack

    from fcn_deploy.runners.base import Runner


def usable_backends(precision: Precision, skipped: Collection[str] = ()) -> tuple[str, ...]:
    """Return the backends that run files of a precision here unasked; the others are named."""
    from fcn_deploy.runners.base import BACKENDS, ON_REQUEST, takes, unavailable_reason

    considered = [b for b in BACKENDS if b not in skipped and b not in ON_REQUEST]
    reasons = {backend: unavailable_reason(backend) for backend in considered}
    usable = tuple(b for b, reason in reasons.items() if reason is None and takes(b, precision))
    if not usable:
        raise InputError("no backend runs on this machine", "see `fcn-deploy doctor`")
    left_out = [backend for backend in reasons if backend not in usable]
    if left_out:
        console.print(f"left out: {', '.join(left_out)} (`fcn-deploy doctor` says why)")
    return usable


def require_backends(backends: Sequence[str]) -> None:
    """Refuse a list of backends of which one is unknown or does not work here."""
    from fcn_deploy.runners.base import require_backend

    for backend in backends:  # all, before the first of them is measured
        require_backend(backend)


def open_backend(
    source: Run,
    backend: str,
    *,
    precision: Precision = Precision.FP32,
    outputs: Sequence[str] = ("mask",),
    device: str = "auto",
    threads: int | None = None,
) -> Runner:
    """Open a runner; for TensorRT, build the engine first if none fits, and say so."""
    from fcn_deploy.runners.base import TORCH_BACKENDS, open_runner, unavailable_reason

    if backend == "trt" and unavailable_reason(backend) is None:
        from fcn_deploy.tensorrt.build_missing import ensure_engine

        with build_bar() as on_progress:
            ensure_engine(
                source, precision, outputs=outputs, say=console.print, on_progress=on_progress
            )
    return open_runner(
        source,
        backend,
        precision=precision,
        outputs=outputs,
        threads=threads,
        # The others say by their name where they run.
        device=device if backend in TORCH_BACKENDS else "auto",
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
    from fcn_deploy.runners.base import open_runner, unavailable_reason

    if (reason := unavailable_reason(backend)) is not None:
        console.print(f"{backend} is left out: {reason}")
        return None
    if unavailable_reason("torch") is None and source.checkpoint.is_file():
        from fcn_deploy.export.baseline import ensure_baseline

        ensure_baseline(source)
    if not source.baseline_onnx.is_file():
        console.print(
            f"{backend} is left out: its plain export is made where PyTorch and the checkpoint "
            f"are; copy {source.baseline_onnx} from there"
        )
        return None
    return open_runner(source, backend, threads=threads)
