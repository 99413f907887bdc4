"""Compares the outputs of an exported ONNX graph with those of the network it came from."""

from __future__ import annotations

import numpy as np
import onnx.version_converter
import torch

from fcn_deploy.core.errors import ExportError
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.self_check import checked_sessions, difference
from fcn_deploy.networks.checkpoint import Checkpoint
from fcn_deploy.networks.deploy_graph import DeployModel

#: (N, H, W) of the self-check: one small, one odd, one below the stride, one batch.
CHECK_SHAPES = ((1, 64, 96), (1, 97, 131), (2, 33, 160), (1, 1, 1))
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

    Raises:
        ExportError: naming the first shape and output that differ.
    """
    sessions = checked_sessions(graph, precision, threads=1)
    reference = DeployModel(checkpoint.model, checkpoint.spec, ("mask", "logits"))
    generator = np.random.default_rng(0)
    for shape in CHECK_SHAPES:
        images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        with torch.inference_mode():
            mask, logits = (output.numpy() for output in reference(torch.from_numpy(images)))
        for how, session in sessions.items():
            produced = session.run(list(outputs), {"image": images})
            given = dict(zip(outputs, produced, strict=True))
            found = difference(mask, logits, given, precision, "PyTorch")
            if found is not None:
                repair = LOOK_INTO if precision is Precision.FP16 else None
                where = f"self-check at (N, H, W) = {shape}{how}"
                raise ExportError(f"{where}: {found}", repair)
