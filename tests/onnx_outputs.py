"""What a graph gives, by ONNX Runtime on the CPU."""

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.generic]]


def outputs_of(
    model: onnx.ModelProto, *, as_written: bool = False, **inputs: NDArray[np.generic]
) -> Arrays:
    """Return every output by name; ``as_written`` computes node by node, with nothing fused."""
    options = onnxruntime.SessionOptions()
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
