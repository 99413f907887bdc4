"""Another tool's graph → deploy graph: uint8 RGB pictures in, uint8 masks out.

    image ─Cast─Transpose─▶ less the mean ─▶ the tool's own nodes ─▶ logits ─Resize─ArgMax─▶ mask

A network that takes multiples of some size alone gets padded pictures, and its logits are cropped.

Channel order and standard deviation go into the first convolution's weights where it alone reads
the input; else they are nodes of their own.  A Transpose at the edges that only turns NHWC into
NCHW, or back, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.spec import ordered_outputs
from fcn_deploy.graph.foreign.network import Interface, reason_of
from fcn_deploy.graph.foreign.norms import fold_norms
from fcn_deploy.graph.foreign.original import NEWEST_OPSET, OLDEST_OPSET
from fcn_deploy.graph.foreign.preprocessing import Preprocessing
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.nodes import (
    consumers_of,
    initializers_of,
    opset_of,
    producers_of,
    remove_dead_nodes,
    replace_nodes,
)

if TYPE_CHECKING:
    import onnx

#: TensorRT's oldest supported releases read no newer files.
_NEWEST_IR = 10
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
#: What the deploy graph's own tensors are called, or begin with.
_OWN_NAMES, _OWN_PREFIX = ("image", "mask", "logits", "margin"), "deploy."


def deploy_graph_of(
    original: onnx.ModelProto,
    preprocessing: Preprocessing,
    interface: Interface,
    outputs: Iterable[str] = ("mask",),
) -> onnx.ModelProto:
    """Return the deploy graph of a network of another tool; it carries no metadata yet.

    Args:
        original: the graph; it is not changed.
        preprocessing: of its pictures.
        interface: what it takes and gives.
        outputs: of ``mask``, ``logits``, ``margin``.

    Raises:
        OnnxFileError: its opset cannot be converted.
    """
    model = _in_known_opset(original)
    # Metadata of another tool is not ours, and shapes of inner tensors are inferred anew.
    del model.metadata_props[:], model.graph.value_info[:]
    # In version 3 all weights are inputs too, which they are no longer here.
    model.ir_version = max(4, min(model.ir_version, _NEWEST_IR))
    model.doc_string = model.graph.doc_string = ""
    _constants_as_initializers(model.graph)
    renamed = _own_names_freed(model.graph)
    _name_nodes(model.graph)
    fold_norms(model.graph)
    surgery = _Surgery(model, preprocessing, interface, renamed)
    surgery.replace_input()
    surgery.replace_outputs(ordered_outputs(outputs))
    remove_dead_nodes(model.graph)
    return model


def _in_known_opset(original: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import ModelProto, version_converter

    opset = opset_of(original)
    wanted = min(max(opset, OLDEST_OPSET), NEWEST_OPSET)
    model = ModelProto()
    model.CopyFrom(original)
    for node in model.graph.node:
        node.domain = ""  # its other name is ai.onnx
    if wanted == opset:
        del model.opset_import[:]  # no operator of another tool is left
        model.opset_import.add(domain="", version=opset)
        return model
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter's exceptions share no base
        reason = reason_of(error)
        raise OnnxFileError(
            f"the file's opset {opset} does not convert to {wanted}: {reason}",
            f"export it again in opset {OLDEST_OPSET} to {NEWEST_OPSET}",
        ) from error
    return converted


def _constants_as_initializers(graph: onnx.GraphProto) -> None:
    """Let constants be initializers, as in files of ours: that is where passes look for weights."""
    from onnx import numpy_helper

    kept = []
    for node in graph.node:
        values = _constant_of(node) if node.op_type == "Constant" else None
        if values is None:
            kept.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    replace_nodes(graph, kept)


def _constant_of(node: onnx.NodeProto) -> np.ndarray[Any, Any] | None:
    from onnx import numpy_helper

    (attribute,) = node.attribute
    if attribute.name == "value":
        return numpy_helper.to_array(attribute.t)
    if attribute.name in ("value_float", "value_floats"):
        floats = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        return np.array(floats, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(attribute.i if attribute.name == "value_int" else list(attribute.ints))
    return None


def _own_names_freed(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename tensors that are called as the deploy graph's own; return old name → new name."""
    renamed: dict[str, str] = {}

    def free(name: str) -> str:
        if name in _OWN_NAMES or name.startswith(_OWN_PREFIX):
            renamed[name] = f"original.{name}"
        return renamed.get(name, name)

    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = free(value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = free(name)
    return renamed


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own: passes and reports tell them by it."""
    seen = {""}
    for number, node in enumerate(graph.node):
        node.doc_string = ""
        if node.name in seen:
            node.name = f"{node.op_type}_{number}" if not node.name else f"{node.name}_{number}"
        seen.add(node.name)


class _Surgery:
    """The graph while its ends are replaced."""

    def __init__(
        self,
        model: onnx.ModelProto,
        preprocessing: Preprocessing,
        interface: Interface,
        renamed: dict[str, str],
    ) -> None:
        self._model, self._graph = model, model.graph
        self._preprocessing, self._interface = preprocessing, interface
        self._input = renamed.get(interface.input_name, interface.input_name)
        self._logits = renamed.get(interface.logits, interface.logits)
        self._types = tensor_types(model)
        self._new: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def replace_input(self) -> None:
        """Let the graph read bytes."""
        from onnx import TensorProto, helper

        entry, axis = self._entry()
        shape = self._interface.taken
        axes = [shape.batch or "N", shape.height or "H", shape.width or "W", 3]
        self._add("Cast", ["image"], "pixels", to=TensorProto.FLOAT)
        pixels = f"{_OWN_PREFIX}pixels"
        if axis == 1:
            pixels = self._add("Transpose", [pixels], "planes", perm=_TO_NCHW)
        convolution = self._only_convolution(entry, axis)
        if convolution is None:
            self._normalise(pixels, entry, axis)
        else:
            self._fold(pixels, convolution)
        replace_nodes(self._graph, [*self._new, *self._graph.node])
        self._new = []
        kept = [value for value in self._graph.input if value.name != self._input]
        weights = initializers_of(self._graph)
        del self._graph.input[:]
        self._graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, axes))
        self._graph.input.extend(value for value in kept if value.name not in weights)

    def _entry(self) -> tuple[str, int]:
        """Return the tensor that pictures are written to, and its axis of channels."""
        if self._preprocessing.layout == "NCHW":
            return self._input, 1
        readers = consumers_of(self._graph)[self._input]
        if len(readers) == 1 and _transposes(readers[0], _TO_NCHW):
            (turned,) = readers[0].output
            kept = [node for node in self._graph.node if node.output[0] != turned]
            replace_nodes(self._graph, kept)
            return turned, 1
        return self._input, 3

    def _only_convolution(self, entry: str, axis: int) -> onnx.NodeProto | None:
        """Return the convolution that alone reads the input and has its weights to itself."""
        readers, weights = consumers_of(self._graph), initializers_of(self._graph)
        if axis != 1 or len(readers[entry]) != 1 or entry == self._logits:
            return None
        (node,) = readers[entry]
        if node.op_type != "Conv" or node.input[0] != entry or node.input[1] not in weights:
            return None
        alone = len(readers[node.input[1]]) == 1 and weights[node.input[1]].dims[1] == 3
        # Of a quantised or half network the weights are no float32.
        return node if alone and weights[node.input[1]].data_type == 1 else None

    def _fold(self, pixels: str, convolution: onnx.NodeProto) -> None:
        from onnx import numpy_helper

        tensor = initializers_of(self._graph)[convolution.input[1]]
        weights = numpy_helper.to_array(tensor).astype(np.float64)
        weights = weights / np.array(self._preprocessing.std).reshape(1, 3, 1, 1)
        mean = np.array(self._preprocessing.mean, np.float32)
        if self._preprocessing.channels == "bgr":
            weights, mean = weights[:, ::-1], mean[::-1]
        folded = np.ascontiguousarray(weights, np.float32)
        tensor.CopyFrom(numpy_helper.from_array(folded, tensor.name))
        if mean.any():
            pixels = self._add("Sub", [pixels, self._row("mean", mean, 1)], "centred")
        convolution.input[0] = self._padded(pixels, 1)

    def _normalise(self, pixels: str, entry: str, axis: int) -> None:
        if self._preprocessing.channels == "bgr":
            order = self._constant("order", np.array([2, 1, 0]))
            pixels = self._add("Gather", [pixels, order], "bgr", axis=axis)
        mean = np.array(self._preprocessing.mean, np.float32)
        std = np.array(self._preprocessing.std, np.float32)
        if mean.any():
            pixels = self._add("Sub", [pixels, self._row("mean", mean, axis)], "centred")
        if (std != 1).any():
            pixels = self._add("Div", [pixels, self._row("std", std, axis)], "normalised")
        self._add("Identity", [self._padded(pixels, axis)], "entry")
        self._new[-1].output[0] = entry

    def _padded(self, pixels: str, axis: int) -> str:
        """Return pixels of a size that the network takes: zeros below and on the right."""
        if not self._interface.pads:
            return pixels
        shape = self._interface.shape
        size = self._image_size()
        least = self._constant("smallest", np.array(shape.smallest))
        multiple = self._constant("multiple", np.array(shape.multiple))
        ahead = self._constant("multiple_less_one", np.array(shape.multiple - 1))
        more = self._add("Add", [self._add("Max", [size, least], "at_least"), ahead], "rounded_up")
        times = self._add("Div", [more, multiple], "multiples")
        taken = self._add("Mul", [times, multiple], "padded_size")
        missing = self._add("Sub", [taken, size], "missing_size")
        behind = (
            [missing] if axis == 1 else [missing, self._constant("none", np.zeros(1, np.int64))]
        )
        before = self._constant("pads_before", np.zeros(6 if axis == 1 else 5, np.int64))
        pads = self._add("Concat", [before, *behind], "pads", axis=0)
        return self._add("Pad", [pixels, pads], "padded", mode="constant")

    def _image_size(self) -> str:
        """Return (H, W) of the picture, as a tensor."""
        if f"{_OWN_PREFIX}image_size" not in self._made:
            # From whole shapes: TensorRT 8.6 overlooks `start` and `end` of Shape.
            whole = self._add("Shape", ["image"], "image_shape")
            places = self._constant("rows_and_columns", np.array([1, 2]))
            self._add("Gather", [whole, places], "image_size", axis=0)
        return f"{_OWN_PREFIX}image_size"

    def replace_outputs(self, outputs: Sequence[str]) -> None:
        """Let the graph give a mask of bytes, and what else is wanted."""
        from onnx import TensorProto, helper

        shape, classes = self._interface.taken, self._interface.num_classes
        logits = self._full_logits()
        index = self._add("ArgMax", [logits], "class", axis=1, keepdims=0)
        through = self._add("Cast", [index], "class_float", to=TensorProto.FLOAT)
        self._add("Cast", [through], "mask", to=TensorProto.UINT8)
        self._new[-1].output[0] = "mask"
        if "logits" in outputs:
            self._add("Identity", [logits], "logits")
            self._new[-1].output[0] = "logits"
        if "margin" in outputs:
            self._margin(logits)
        replace_nodes(self._graph, [*self._graph.node, *self._new])
        batch, height, width = shape.batch or "N", shape.height or "H", shape.width or "W"
        plane = [batch, height, width]
        kinds = {
            "mask": (TensorProto.UINT8, plane),
            "logits": (TensorProto.FLOAT, [batch, classes, height, width]),
            "margin": (TensorProto.FLOAT, plane),
        }
        del self._graph.output[:]
        self._graph.output.extend(
            helper.make_tensor_value_info(name, *kinds[name]) for name in outputs
        )

    def _full_logits(self) -> str:
        """Return float32 logits [N, C, H, W], of the picture's size."""
        from onnx import TensorProto

        logits = self._logits
        if self._interface.layout == "NHWC":
            producer = producers_of(self._graph).get(logits)
            if producer is not None and _transposes(producer, _TO_NHWC):
                logits = producer.input[0]
            else:
                logits = self._add("Transpose", [logits], "scores", perm=_TO_NCHW)
        if self._types.get(self._logits, TensorProto.FLOAT) != TensorProto.FLOAT:
            logits = self._add("Cast", [logits], "scores_float", to=TensorProto.FLOAT)
        if self._interface.upsampled:
            logits = self._upsampled(logits)
        if self._interface.pads:
            corner = self._constant("corner", np.zeros(2, np.int64))
            axes = self._constant("crop_axes", np.array([2, 3]))
            logits = self._add("Slice", [logits, corner, self._image_size(), axes], "cropped")
        return logits

    def _upsampled(self, logits: str) -> str:
        given = self._add("Shape", [logits], "scores_shape")
        first = self._constant("batch_and_classes", np.array([0, 1]))
        kept = self._add("Gather", [given, first], "scores_kept", axis=0)
        size = f"{_OWN_PREFIX}padded_size" if self._interface.pads else self._image_size()
        sizes = self._add("Concat", [kept, size], "upsampled_shape", axis=0)
        mode = "align_corners" if self._interface.align_corners else "half_pixel"
        return self._add(
            "Resize", [logits, "", "", sizes], "upsampled", mode="linear",
            coordinate_transformation_mode=mode,
        )  # fmt: skip

    def _margin(self, logits: str) -> None:
        two = self._constant("two", np.array([2]))
        best = self._add("TopK", [logits, two], "best", axis=1)
        self._new[-1].output.append(f"{_OWN_PREFIX}best_classes")
        parts = [
            self._add(
                "Gather", [best, self._constant(name, np.array(place))], f"{name}_logit", axis=1
            )
            for place, name in enumerate(("first", "second"))
        ]
        self._add("Sub", parts, "margin")
        self._new[-1].output[0] = "margin"

    def _row(self, name: str, values: np.ndarray[Any, Any], axis: int) -> str:
        shape = (1, 3, 1, 1) if axis == 1 else (1, 1, 1, 3)
        return self._constant(name, values.reshape(shape))

    def _constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self._graph.initializer.append(numpy_helper.from_array(values, f"{_OWN_PREFIX}{name}"))
        return f"{_OWN_PREFIX}{name}"

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{_OWN_PREFIX}{output}"
        self._new.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self._made.add(name)
        return name


def _transposes(node: onnx.NodeProto, order: list[int]) -> bool:
    return node.op_type == "Transpose" and any(
        attribute.name == "perm" and list(attribute.ints) == order for attribute in node.attribute
    )
