"""A deploy graph, put together node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class DeployGraph:
    """Begins with a picture as float [N, 3, H, W]; ``at`` is the tensor that is read next."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self.at = "image"
        self.add("Cast", to=TensorProto.FLOAT)
        self.add("Transpose", perm=[0, 3, 1, 2])

    def add(self, operator: str, *others: Any, at: str = "", **attributes: Any) -> str:
        """Add a node; its further inputs are names, or values of weights."""
        names = [at or self.at]
        for other in others:
            names.append(other if isinstance(other, str) else f"w{len(self._weights)}")
            if not isinstance(other, str):
                self._weights.append(numpy_helper.from_array(np.asarray(other), names[-1]))
        self.at = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [self.at], self.at, **attributes))
        return self.at

    def finished(self) -> ModelProto:
        """Return the graph whose mask is the argmax of the scores, cropped to the picture."""
        scores = self.at
        size = self.add("Shape", at="image", start=1, end=3)
        self.add("Slice", np.zeros(2, np.int64), size, np.array([2, 3]), at=scores)
        self.add("ArgMax", axis=1, keepdims=0)
        self.add("Cast", to=TensorProto.UINT8)
        self._nodes[-1].output[0] = "mask"
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
        mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"])
        graph = helper.make_graph(self._nodes, "net", [image], [mask], self._weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, ir_version=8, opset_imports=opsets)
