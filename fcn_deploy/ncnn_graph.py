"""What of an ONNX graph of ours ncnn computes, and what is left of it.  Knows no torch.

    image ─Cast─Transpose─Sub─▶ pixels ─Conv, Relu, MaxPool, Add─▶ seam ─the rest─▶ outputs
          └───── Mat ────────┘         └────────── ncnn ─────────┘       └── ONNX ──┘

A network in ncnn is a text with a line for each layer, and the weights in the order of these lines.
Source: "param and model file structure" and "operation param weight table" in ncnn's documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.errors import OnnxFileError

if TYPE_CHECKING:
    import onnx

_MAGIC = 7767517
#: Before the weights of a layer: they are float32.
_FLOAT32_TAG = b"\0\0\0\0"
_REPAIR = "export it again, or use --backend ort"


@dataclass(frozen=True)
class SplitGraph:
    """An ONNX graph in two parts.

    Attributes:
        param: the first part's layers, as ncnn's text.
        weights: their weights, as ncnn reads them.
        source: the blob that takes a picture, float32 [3, H, W], 0 to 255 less ``mean``.
        mean: of the channels, in units of a uint8 image.
        seam: the blobs that the first part gives, float32 [K, h, w] each.
        rest: the second part: reads the seam as [N, K, h, w], and ``image`` where it must know its
            size; gives the graph's outputs.
    """

    param: str
    weights: bytes
    source: str
    mean: tuple[float, ...]
    seam: tuple[str, ...]
    rest: onnx.ModelProto


def split_graph(model: onnx.ModelProto) -> SplitGraph:
    """Split a deploy graph after the last layer that ncnn computes.

    Args:
        model: FP32, as `fcn-deploy export` writes it; not changed.

    Raises:
        OnnxFileError: it does not begin as a deploy graph does, or holds no layer for ncnn.
    """
    from onnx import numpy_helper

    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    source, mean = _normalised_picture(model.graph, weights)
    layers = _layers(model.graph, weights, source)
    if not layers:
        raise OnnxFileError("the graph has no layer that ncnn computes", _REPAIR)
    given = {node.output[0] for node in layers}
    inside = {node.name for node in layers}
    read_outside = {
        name for node in model.graph.node if node.name not in inside for name in node.input
    } | {output.name for output in model.graph.output}
    seam = tuple(node.output[0] for node in layers if node.output[0] in read_outside & given)
    param, content = _as_ncnn(layers, weights, source, seam)
    return SplitGraph(param, content, source, mean, seam, _rest(model, layers, seam))


def _normalised_picture(
    graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]]
) -> tuple[str, tuple[float, ...]]:
    """Return the tensor that the network reads, and the mean that was taken from the picture."""
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Sub" or node.input[1] not in weights:
            continue
        before = [node.input[0]]
        while before[-1] in maker:
            before.append(maker[before[-1]].input[0])
        steps = [maker[name].op_type for name in before[:-1]]
        mean = weights[node.input[1]]
        if before[-1] == "image" and steps == ["Transpose", "Cast"] and mean.size == 3:
            return node.output[0], tuple(float(value) for value in mean.ravel())
    raise OnnxFileError("the graph does not begin by taking a mean from its picture", _REPAIR)


def _layers(
    graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]], source: str
) -> list[onnx.NodeProto]:
    """Return the nodes that ncnn computes: all that is reached from the picture by them alone."""
    known = {source}
    layers = []
    for node in graph.node:  # ONNX graphs are sorted
        if node.op_type in ("Relu", "MaxPool", "Add"):
            takes = all(name in known for name in node.input)
        elif node.op_type == "Conv":
            takes = (
                node.input[0] in known
                and all(name in weights for name in node.input[1:])
                and _attributes(node)["group"] == 1
            )
        else:
            takes = False
        if takes:
            known.add(node.output[0])
            layers.append(node)
    return layers


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _as_ncnn(
    layers: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    source: str,
    seam: Sequence[str],
) -> tuple[str, bytes]:
    """Write layers as ncnn's text and weights."""
    lines: list[str] = []
    content = bytearray()
    uses = Counter(name for node in layers for name in node.input if name not in weights)
    uses.update(seam)
    fused = _fused_relus(layers, uses)
    copies: dict[str, list[str]] = {}
    blobs: set[str] = set()

    def give(name: str) -> None:
        # Layers work in place where they can: whoever shares a blob gets a copy of his own.
        readers = uses[name]
        blobs.add(name)
        copies[name] = [name]
        if readers > 1:
            # The seam is asked for by its name, so a split has its copy under another.
            copies[name] = [f"{name}:{number}" for number in range(readers)]
            lines.append(f"Split {name}:split 1 {readers} {name} {' '.join(copies[name])}")
            blobs.update(copies[name])

    lines.append(f"Input {source}:input 0 1 {source}")
    give(source)
    for node in layers:
        if node.output[0] in fused.values():
            continue  # part of the convolution before it
        sources = [copies[name].pop() for name in node.input if name not in weights]
        output = fused.get(node.output[0], node.output[0])
        kind, numbers = _layer(node, weights, relu=node.output[0] in fused)
        words = " ".join(f"{place}={value}" for place, value in numbers.items())
        read = f"{len(sources)} 1 {' '.join(sources)}"
        lines.append(f"{kind} {node.name} {read} {output} {words}".rstrip())
        if node.op_type == "Conv":
            content += _FLOAT32_TAG + weights[node.input[1]].astype("<f4").tobytes()
            if len(node.input) > 2:
                content += weights[node.input[2]].astype("<f4").tobytes()
        give(output)
    head = f"{_MAGIC}\n{len(lines)} {len(blobs)}\n"
    return head + "\n".join(lines) + "\n", bytes(content)


def _fused_relus(layers: Sequence[onnx.NodeProto], uses: Mapping[str, int]) -> dict[str, str]:
    """Return convolution's output → Relu's output, for each Relu that is its only reader."""
    convolved = {node.output[0] for node in layers if node.op_type == "Conv"}
    return {
        node.input[0]: node.output[0]
        for node in layers
        if node.op_type == "Relu" and node.input[0] in convolved and uses[node.input[0]] == 1
    }


def _layer(
    node: onnx.NodeProto, weights: Mapping[str, NDArray[Any]], *, relu: bool
) -> tuple[str, dict[int, int]]:
    """Return ncnn's name of a layer and its parameters by their numbers."""
    if node.op_type == "Relu":
        return "ReLU", {}
    if node.op_type == "Add":
        return "BinaryOp", {0: 0}
    attributes = _attributes(node)
    (kernel_h, kernel_w), (stride_h, stride_w) = attributes["kernel_shape"], attributes["strides"]
    top, left, bottom, right = attributes["pads"]
    if node.op_type == "MaxPool":
        # 0: maximum; 5: sizes are rounded down.
        return "Pooling", {
            0: 0, 1: kernel_w, 11: kernel_h, 2: stride_w, 12: stride_h,
            3: left, 13: top, 14: right, 15: bottom, 5: 1,
        }  # fmt: skip
    filters = weights[node.input[1]]
    dilation_h, dilation_w = attributes["dilations"]
    return "Convolution", {
        0: filters.shape[0], 1: kernel_w, 11: kernel_h, 2: dilation_w, 12: dilation_h,
        3: stride_w, 13: stride_h, 4: left, 14: top, 15: right, 16: bottom,
        5: int(len(node.input) > 2), 6: filters.size, 9: int(relu),
    }  # fmt: skip


def _rest(
    model: onnx.ModelProto, layers: Sequence[onnx.NodeProto], seam: Sequence[str]
) -> onnx.ModelProto:
    """Return what follows the seam as a model of its own."""
    from onnx import TensorProto, helper

    graph = model.graph
    inside = {node.name for node in layers}
    wanted = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if node.name not in inside and wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.insert(0, node)
    inputs = [value for value in graph.input if value.name in wanted] + [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", f"K{place}", None, None])
        for place, name in enumerate(seam)
    ]
    rest = helper.make_model(
        helper.make_graph(
            nodes,
            "rest",
            inputs,
            list(graph.output),
            [entry for entry in graph.initializer if entry.name in wanted],
        ),
        opset_imports=list(model.opset_import),
    )
    rest.ir_version = model.ir_version
    return rest


def as_batch(blobs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what ncnn gave for N pictures, [K, h, w] each, as float32 [N, K, h, w]."""
    return blobs[0][None] if len(blobs) == 1 else np.stack(blobs)
