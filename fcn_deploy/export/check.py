"""Compares the outputs of an exported ONNX graph with those of the network it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.version_converter
import torch
from numpy.typing import NDArray

from fcn_deploy.core.errors import ExportError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.networks.checkpoint import Checkpoint
from fcn_deploy.networks.deploy_graph import DeployModel

#: (N, H, W) of the self-check: one small, one odd, one below the stride, one batch.
CHECK_SHAPES = ((1, 64, 96), (1, 97, 131), (2, 33, 160), (1, 1, 1))
#: The check's tolerance, in units of the largest |logit|: beyond twice this margin the masks
#: must agree.  Half precision keeps 11 bits and loses a few of them along 20 layers.
CHECK_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}
#: A layer overflows in half, or loses too many digits there.
LOOK_INTO = (
    "write it with `fcn-deploy export --fp16 --unchecked`, and `fcn-deploy parity --fp16 --bisect` "
    "names the layer; or ship FP32"
)


def check_graph(
    graph: onnx.ModelProto,
    checkpoint: Checkpoint,
    outputs: tuple[str, ...],
    precision: Precision,
) -> None:
    """Check the graph formally, then its masks and logits against PyTorch in float32.

    A half graph is computed twice: as it is, and with every tensor rounded to half, as a GPU does.

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is invalid: {error}") from error
    sessions = {"": cpu_session(graph.SerializeToString(), threads=1)}
    if precision is Precision.FP16:
        rounded = with_explicit_rounding(graph).SerializeToString()
        sessions[" rounded to half everywhere, as a GPU does"] = cpu_session(rounded, threads=1)
    reference = DeployModel(checkpoint.model, checkpoint.spec, ("mask", "logits"))
    generator = np.random.default_rng(0)
    for shape in CHECK_SHAPES:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            mask, logits = (output.numpy() for output in reference(torch.from_numpy(images)))
        for how, session in sessions.items():
            produced = session.run(list(outputs), {"image": images})
            given = dict(zip(outputs, produced, strict=True))
            where = f"self-check at (N, H, W) = {shape}{how}"
            try:
                _check_outputs(where, mask, logits, given, CHECK_TOLERANCE[precision])
            except ExportError as error:
                repair = LOOK_INTO if precision is Precision.FP16 else None
                raise ExportError(error.message, repair) from error


def _check_outputs(
    where: str,
    mask: NDArray[np.uint8],
    logits: NDArray[np.float32],
    given: dict[str, NDArray[Any]],
    tolerance: float,
) -> None:
    allowed = tolerance * float(np.abs(logits).max())
    margin = margin_of(logits)
    if given["mask"].dtype != np.uint8 or given["mask"].shape != mask.shape:
        raise ExportError(
            f"{where}: the mask is {given['mask'].dtype} "
            f"{given['mask'].shape}, expected uint8 {mask.shape}"
        )
    wrong = (given["mask"] != mask) & (margin > 2 * allowed)
    if wrong.any():
        raise ExportError(
            f"{where}: ONNX Runtime gives another class than PyTorch "
            f"at {int(wrong.sum())} decided pixels"
        )
    for name, expected, limit in (("logits", logits, allowed), ("margin", margin, 2 * allowed)):
        if name in given:
            error = float(np.abs(given[name] - expected).max())
            if not error <= limit:  # a NaN fails too
                raise ExportError(
                    f"{where}: {name} differ from PyTorch by {error:.3g}, allowed {limit:.3g}"
                )
