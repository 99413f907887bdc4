"""What of an ONNX graph of ours ncnn computes, and what is left of it.  Knows no torch.

    image ─head─▶ entry ─Conv, Relu, MaxPool, Add─▶ seam ─rest─▶ outputs
         ONNX           └──────── ncnn ─────────┘       ONNX

The head ends before the first convolution that Winograd's filtering makes cheaper: what comes
earlier, the 7×7 convolution of a ResNet, takes ncnn 1.9 times as long as ONNX Runtime (measured).

A network in ncnn is a text with a line for each layer, and the weights in the order of these lines.
A line may say how large a layer's maps usually are.  By that ncnn chooses among its filterings:
large tiles for large maps, small ones where reading weights costs more than multiplying.  Maps of
any size are computed, with the tiles chosen for this one.
Source: "param and model file structure" and "operation param weight table" in ncnn's documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import UnfitNetworkError
from fcn_deploy.graph.cost import Shape, tensor_shapes
from fcn_deploy.runners.ncnn.layers import REPAIR, attributes_of, layers_of, require_fitting

if TYPE_CHECKING:
    import onnx

_MAGIC = 7767517
#: Before the weights of a layer: they are float32.
_FLOAT32_TAG = b"\0\0\0\0"


@dataclass(frozen=True)
class SplitGraph:
    """An ONNX graph in three parts.

    Attributes:
        head: the first part: reads ``image``, gives ``entry``.
        entry: the tensor that goes into the second part, float32 [N, C, h, w].
        channels: C, where a layer says how many it reads.
        param: the second part's layers, as ncnn's text.
        weights: their weights, as ncnn reads them.
        seam: the tensors that the second part gives, float32 [N, K, h, w] each.
        rest: the third part: reads the seam, and ``image`` where it must know its size; gives the
            graph's outputs.
    """

    head: onnx.ModelProto
    entry: str
    channels: int | None
    param: str
    weights: bytes
    seam: tuple[str, ...]
    rest: onnx.ModelProto


def split_graph(
    model: onnx.ModelProto, *, typical_size: tuple[int, int] | None = None
) -> SplitGraph:
    """Split a deploy graph around the layers that ncnn computes.

    Args:
        model: FP32, as `fcn-deploy export` writes it; not changed.
        typical_size: (height, width) in pixels of the pictures that are to be fastest.

    Raises:
        OnnxFileError: one path from the picture to a layer that ncnn computes with fewer products
            is not to be found, or the graph's shapes contradict each other; see also
            :func:`fcn_deploy.runners.ncnn.layers.require_fitting`.
    """
    from onnx import numpy_helper

    weights = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    entry = _entrance(model.graph)
    layers = layers_of(model.graph.node, weights, entry)
    if not layers:
        raise _nothing_to_compute()
    channels = require_fitting(layers, weights, entry)
    given = {node.output[0] for node in layers}
    inside = {node.name for node in layers}
    read_outside = {
        name for node in model.graph.node if node.name not in inside for name in node.input
    } | {output.name for output in model.graph.output}
    seam = tuple(node.output[0] for node in layers if node.output[0] in read_outside & given)
    shapes: Mapping[str, Shape] = {}
    if typical_size is not None:
        shapes = tensor_shapes(model, {"image": (1, *typical_size, 3)})
    param, content = _as_ncnn(layers, weights, entry, seam, shapes)
    head = _part(model, "head", (), [_feature_maps(entry, "C")])
    seams = [_feature_maps(name, f"K{place}") for place, name in enumerate(seam)]
    rest = _part(model, "rest", seams, list(model.graph.output))
    return SplitGraph(head, entry, channels, param, content, seam, rest)


def _entrance(graph: onnx.GraphProto) -> str:
    """Return the one tensor that leads from the picture to the first such layer, the last of these.

    Who asks a tensor for its size alone does not count: the rest computes that again for itself.
    """
    first = next((node for node in graph.node if _has_fewer_products(node)), None)
    if first is None:
        raise _nothing_to_compute()
    path = _leading_to(first, graph)
    outputs = {output.name for output in graph.output}
    for end in range(len(path), 0, -1):
        head = path[:end]
        given = {name for node in head for name in node.output}
        inside = {node.name for node in head}
        read = {
            name
            for node in graph.node
            if node.name not in inside and node.op_type != "Shape"
            for name in node.input
        }
        crossing: set[str] = given & (read | outputs)
        if len(crossing) == 1:
            return crossing.pop()
    raise _nothing_to_compute()


def _leading_to(last: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes before ``last`` that it depends on, in the graph's order."""
    wanted = set(last.input)
    path: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            path.insert(0, node)
    return path


def _nothing_to_compute() -> UnfitNetworkError:
    return UnfitNetworkError(
        "no single path leads from the picture to a layer that ncnn computes faster", REPAIR
    )


def _has_fewer_products(node: onnx.NodeProto) -> bool:
    """Say whether Winograd's filtering serves a node: a 3×3 convolution of stride 1."""
    if node.op_type != "Conv":
        return False
    attributes = attributes_of(node)
    ones = (attributes["strides"], attributes["dilations"], [attributes["group"]])
    return list(attributes.get("kernel_shape", ())) == [3, 3] and all(
        set(each) == {1} for each in ones
    )


def _as_ncnn(
    layers: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    entry: str,
    seam: Sequence[str],
    shapes: Mapping[str, Shape],
) -> tuple[str, bytes]:
    """Write layers as ncnn's text and weights; ``shapes`` are usual ones, of what is known."""
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
            said = _hint([shapes.get(name)] * readers)
            lines.append(f"Split {name}:split 1 {readers} {name} {' '.join(copies[name])}{said}")
            blobs.update(copies[name])

    lines.append(f"Input {entry}:input 0 1 {entry}{_hint([shapes.get(entry)])}")
    give(entry)
    for node in layers:
        if node.output[0] in fused.values():
            continue  # part of the convolution before it
        sources = [copies[name].pop() for name in node.input if name not in weights]
        output = fused.get(node.output[0], node.output[0])
        kind, numbers = _layer(node, weights, relu=node.output[0] in fused)
        words = " ".join(f"{place}={value}" for place, value in numbers.items())
        read = f"{len(sources)} 1 {' '.join(sources)}"
        said = _hint([shapes.get(output)])
        lines.append(f"{kind} {node.name} {read} {output} {words}".rstrip() + said)
        if node.op_type == "Conv":
            content += _FLOAT32_TAG + weights[node.input[1]].astype("<f4").tobytes()
            if len(node.input) > 2:
                content += weights[node.input[2]].astype("<f4").tobytes()
        give(output)
    head = f"{_MAGIC}\n{len(lines)} {len(blobs)}\n"
    return head + "\n".join(lines) + "\n", bytes(content)


def _hint(shapes: Sequence[Shape | None]) -> str:
    """Return how a layer's line says its outputs' shapes, (1, C, h, w) each, or nothing."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return ""
    # An array, which is what numbers below -23300 announce: dimensions, w, h, C of each output.
    numbers = [str(number) for _, maps, h, w in known for number in (3, w, h, maps)]
    return f" -23330={len(numbers)},{','.join(numbers)}"


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
    attributes = attributes_of(node)
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


def _feature_maps(name: str, channels: str) -> onnx.ValueInfoProto:
    """Return a tensor between two parts: float32 [N, ``channels``, h, w]."""
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, None, None])


def _part(
    model: onnx.ModelProto,
    name: str,
    given: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return what leads from the graph's inputs and ``given`` to ``outputs`` as a model."""
    from onnx import helper

    graph = model.graph
    known = {value.name for value in given}
    wanted = {output.name for output in outputs}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if (wanted - known).intersection(node.output):
            wanted.update(node.input)
            nodes.insert(0, node)
    part = helper.make_model(
        helper.make_graph(
            nodes,
            name,
            [value for value in graph.input if value.name in wanted] + list(given),
            list(outputs),
            [entry for entry in graph.initializer if entry.name in wanted],
        ),
        opset_imports=list(model.opset_import),
    )
    part.ir_version = model.ir_version
    return part


def as_batch(blobs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what ncnn gave for N pictures, [K, h, w] each, as float32 [N, K, h, w]."""
    return blobs[0][None] if len(blobs) == 1 else np.stack(blobs)
