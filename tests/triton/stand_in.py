"""A backend of Triton's, in Python, that stands in for the one in C++ for ONNX Runtime.

Triton opens it as ``backends/onnxruntime/model.py``, in the environment of its own.  It says what
it runs in a line on stdout: ``executed 2x48x64x3``.
"""

# mypy: ignore-errors

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]
        self._batches = json.loads(args["model_config"])["max_batch_size"] > 0

    def execute(self, requests):
        images = [triton.get_input_tensor_by_name(one, "image").as_numpy() for one in requests]
        if not self._batches:
            return [self._response(self._run(image)) for image in images]
        arrays = self._run(np.concatenate(images))
        ends = np.cumsum([len(image) for image in images])[:-1]
        split = [np.split(array, ends) for array in arrays]
        return [self._response(parts) for parts in zip(*split, strict=True)]

    def _run(self, images):
        print(f"executed {'x'.join(map(str, images.shape))}", flush=True)
        return self._session.run(self._names, {"image": images})

    def _response(self, arrays):
        named = zip(self._names, arrays, strict=True)
        return triton.InferenceResponse([triton.Tensor(name, array) for name, array in named])
