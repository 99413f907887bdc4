"""The self-check of an export: a graph's outputs against those of the network that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ExportError
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.session import cpu_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime

#: In units of the largest |logit|: beyond twice this margin the masks must agree.  Half precision
#: keeps 11 bits and loses a few of them along 20 layers.
CHECK_TOLERANCE = {Precision.FP32: 1e-3, Precision.FP16: 2e-2}
#: A class whose logits are so many times larger than usual is never to win, as one at -1e9: they
#: say nothing of how large an error may be.
_ABSURD = 300


def checked_sessions(
    graph: onnx.ModelProto, precision: Precision, *, threads: int, repair: str | None = None
) -> dict[str, onnxruntime.InferenceSession]:
    """Return sessions of a graph that is formally right, by a word on how they compute.

    A half graph is computed twice: as it is, and with every tensor rounded to half, as a GPU does.

    Raises:
        ExportError: the graph is invalid.
    """
    import onnx

    try:
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # the checker's and shape inference's exceptions share no base
        raise ExportError(
            f"the graph is invalid: {' '.join(str(error).split())}", repair
        ) from error
    sessions = {"": cpu_session(graph.SerializeToString(), threads=threads)}
    if precision is Precision.FP16:
        rounded = with_explicit_rounding(graph).SerializeToString()
        sessions[" rounded to half everywhere, as a GPU does"] = cpu_session(
            rounded, threads=threads
        )
    return sessions


def difference(
    mask: NDArray[np.uint8],
    logits: NDArray[np.float32],
    given: Mapping[str, NDArray[Any]],
    precision: Precision,
    reference: str,
) -> str | None:
    """Return in what a graph's outputs differ from the reference's, or None.

    Args:
        mask: the reference's, uint8 [N, H, W].
        logits: the reference's, [N, C, H, W].
        given: the graph's outputs by name; ``mask`` is among them.
        precision: of the graph.
        reference: its name, for the words.
    """
    if given["mask"].dtype != np.uint8 or given["mask"].shape != mask.shape:
        return f"the mask is {given['mask'].dtype} {given['mask'].shape}, expected {mask.shape}"
    best = np.partition(logits, -2, axis=1)[:, -2:]
    if not np.isfinite(best).all():
        return f"{reference} gives NaN or infinity"
    finite = np.where(np.isfinite(logits), logits, 0)
    peaks = np.sort(np.abs(finite).max(axis=(0, 2, 3)))  # of each class
    usual = max(peaks[(len(peaks) - 1) // 2], np.abs(best).max())
    allowed = CHECK_TOLERANCE[precision] * float(peaks[peaks <= _ABSURD * usual].max())
    margin = best[:, 1] - best[:, 0]
    wrong = (given["mask"] != mask) & (margin > 2 * allowed)
    if wrong.any():
        return f"another class than {reference}'s at {int(wrong.sum())} decided pixels"
    scale = CHECK_TOLERANCE[precision] * float(peaks[-1])
    for name, expected, limit in (("logits", logits, scale), ("margin", margin, 2 * allowed)):
        if name in given:
            differs = given[name] != expected  # -inf, of a class that never wins, is no difference
            error = float(np.abs(given[name][differs] - expected[differs]).max(initial=0))
            if not error <= limit:  # a NaN fails too
                return f"{name} differ from {reference}'s by {error:.3g}, allowed {limit:.3g}"
    return None
