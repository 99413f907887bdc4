"""Who is measured beside whom: our backends, the peers that open here, and only with our masks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from peers import PEERS, Peer

from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.commands.shared.backends import open_backend, open_baselines, usable_backends
from fcn_deploy.commands.shared.console import console, counter
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.gate import GATES
from fcn_deploy.results.bench_table import MASK_REFERENCE, mask_label
from fcn_deploy.results.format import percent
from fcn_deploy.runners.base import Runner, takes

#: Share of pixels that must be as the reference has them: the parity gate's.
MIN_AGREEMENT = {precision: gate.min_agreement for precision, gate in GATES.items()}
#: Our backends for which half precision is worth measuring: on CPUs it is slower.
FP16_BACKENDS = ("ort-cuda", "ort-rtx", "trt")


def open_ours(source: Run, threads: int, stack: ExitStack) -> dict[Runner, Precision]:
    """Open the baseline, PyTorch and whatever else of ours runs here; the baselines first.

    Returns:
        The runners, each with the precision of the file that it was opened on.
    """
    runners = {
        stack.enter_context(
            open_backend(source, backend, precision=precision, threads=threads)
        ): precision
        for backend in usable_backends(Precision.FP32)
        for precision in (Precision.FP32, Precision.FP16, Precision.INT8)
        if _takes_part(source, backend, precision)
    }
    baselines = open_baselines(source, threads, list(runners), stack)
    return {**dict.fromkeys(baselines, Precision.FP32), **runners}


def _takes_part(source: Run, backend: str, precision: Precision) -> bool:
    """Say whether a backend is measured in a precision: in INT8 wherever there is such a file."""
    if precision is Precision.FP32:
        return True
    if precision is Precision.INT8:
        return takes(backend, precision) and source.onnx(precision).is_file()
    if backend not in FP16_BACKENDS:
        return False
    there = source.onnx(precision).is_file()
    if not there:
        console.print(
            f"{backend} fp16 is left out: run `fcn-deploy export{source.command_suffix} --fp16`"
        )
    return there


def open_peers(source: Run, threads: int, stack: ExitStack) -> tuple[list[Runner], list[str]]:
    """Return every peer of the same network that opens, and why the others do not."""
    runners, left_out = [], []
    for peer in PEERS:
        opened = open_peer(peer, source, threads)
        if isinstance(opened, Runner):
            runners.append(stack.enter_context(opened))
        else:
            left_out.append(f"{peer.name}: {opened}")
    return runners, left_out


def open_peer(peer: Peer, source: Run, threads: int) -> Runner | str:
    """Return a peer, open, or why it cannot be opened."""
    reason = peer.unavailable_reason()
    if reason is not None:
        return reason
    try:
        return peer.open(source, threads)
    except FcnDeployError as error:
        return str(error)


@dataclass(frozen=True)
class MaskCheck:
    """Whether everyone gives our PyTorch runner's masks.

    Attributes:
        shares: :func:`mask_label` of a runner → share of pixels that agree.
        wrong: runners that may not be measured → why.
    """

    shares: dict[str, float]
    wrong: dict[Runner, str]


def check_masks(
    ours: Sequence[Runner],
    peers: Sequence[Runner],
    inputs: Sequence[Inputs],
    batch_sizes: Sequence[int],
) -> MaskCheck:
    """Compare everyone's masks on what will be measured.

    It also compiles, off the clock, what a peer compiles for each size.
    """
    reference = next(r for r in ours if mask_label(r.describe()) == MASK_REFERENCE)
    queries = [
        images for pictures in inputs for size in batch_sizes for images in _all(pictures, size)
    ]
    expected = [reference.run(images).mask for images in queries]
    found = MaskCheck({}, {})
    with counter("masks", len(ours) + len(peers)) as step:
        for runner in (*ours, *peers):
            label, least = mask_label(runner.describe()), MIN_AGREEMENT[runner.describe().precision]
            try:
                masks = [runner.run(images).mask for images in queries]
            except FcnDeployError as error:
                if runner in ours:
                    raise
                found.wrong[runner] = str(error)
                continue
            share = found.shares[label] = agreement(masks, expected)
            console.print(f"masks of {label}: {percent(share)} of the pixels agree")
            if share < least:
                found.wrong[runner] = (
                    f"only {percent(share)} of its masks' pixels are as PyTorch has them, "
                    f"below {percent(least)}"
                )
            step()
    return found


def _all(pictures: Inputs, batch_size: int) -> list[NDArray[np.uint8]]:
    """Return batches that hold every picture at least once."""
    return [
        pictures.batch(pictures.query(number, batch_size))
        for number in range(-(-len(pictures.files) // batch_size))
    ]


def agreement(masks: Sequence[NDArray[np.uint8]], expected: Sequence[NDArray[np.uint8]]) -> float:
    """Return the share of pixels that are the same, over all pictures."""
    same = sum(int((a == b).sum()) for a, b in zip(masks, expected, strict=True))
    return same / sum(mask.size for mask in expected)
