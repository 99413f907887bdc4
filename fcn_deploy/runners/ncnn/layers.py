"""Which nodes of an ONNX graph ncnn can compute, and whether their weights fit them.

ncnn is told numbers and given bytes: it looks at neither, and would read beyond a tensor that is
too short.  So everything that its reading depends on is checked here, before it is handed over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError

if TYPE_CHECKING:
    import onnx

REPAIR = "export it again, or use --backend ort"
_DAMAGED = "export it again"
#: Letters of a name that ncnn's text can hold, less those that are added to it.
_LONGEST_NAME = 200
#: What ONNX means where a window's attribute is left out.
_DEFAULTS: dict[str, Any] = {
    "strides": [1, 1],
    "dilations": [1, 1],
    "pads": [0, 0, 0, 0],
    "group": 1,
    "auto_pad": b"NOTSET",
    "ceil_mode": 0,
}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes, with ONNX's defaults for those of two-dimensional windows."""
    from onnx import helper

    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {**_DEFAULTS, **given}


def layers_of(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, NDArray[Any]], entry: str
) -> list[onnx.NodeProto]:
    """Return the nodes that ncnn computes: all that is reached from ``entry`` by them alone."""
    known = {entry}
    layers = []
    for node in nodes:  # ONNX graphs are sorted
        if _takes(node, weights, known):
            known.add(node.output[0])
            layers.append(node)
    return layers


def _takes(
    node: onnx.NodeProto, weights: Mapping[str, NDArray[Any]], known: Collection[str]
) -> bool:
    if node.op_type in ("Relu", "Add"):
        return all(name in known for name in node.input)
    if node.op_type == "MaxPool":
        return node.input[0] in known and len(node.output) == 1 and _is_plain_window(node)
    if node.op_type == "Conv":
        return (
            node.input[0] in known
            and all(name in weights for name in node.input[1:])
            and attributes_of(node)["group"] == 1
            and _is_plain_window(node)
        )
    return False


def _is_plain_window(node: onnx.NodeProto) -> bool:
    """Say whether a window is one that :mod:`fcn_deploy.runners.ncnn.split` can write."""
    found = attributes_of(node)
    if node.op_type == "MaxPool" and (found["ceil_mode"] or set(found["dilations"]) != {1}):
        return False
    sizes = (found.get("kernel_shape", ()), found["strides"], found["dilations"])
    return (
        found["auto_pad"] in (b"NOTSET", "NOTSET")
        and all(len(each) == 2 and min(each) >= 1 for each in sizes)
        and len(found["pads"]) == 4
        and min(found["pads"]) >= 0
    )


def require_fitting(
    layers: Sequence[onnx.NodeProto], weights: Mapping[str, NDArray[Any]], entry: str
) -> int | None:
    """Check all that ncnn does not look at.

    Args:
        layers: as :func:`layers_of` returns them.
        weights: initializer → its values.
        entry: the tensor that the first of them reads.

    Returns:
        How many channels ``entry`` must have; None where no layer says it.

    Raises:
        OnnxFileError: filters, biases or channels do not fit, or a name does not fit into a line.
    """
    # None stands for the entry's channels, until a layer says how many these are.
    channels: dict[str, int | None] = {entry: None}
    of_entry: int | None = None
    names = [entry, *(name for node in layers for name in (node.name, node.output[0]))]
    for name in names:
        if not name or len(name) > _LONGEST_NAME or name.split() != [name]:
            raise OnnxFileError(f"ncnn cannot take {name[:40]!r} for a name", REPAIR)
    if len({node.name for node in layers}) < len(layers):
        raise OnnxFileError("two nodes of the graph have one name", REPAIR)
    for node in layers:
        read = [channels[name] for name in node.input if name in channels]
        expected = _filters(node, weights).shape[1] if node.op_type == "Conv" else None
        counts = {count for count in (*read, expected) if count is not None}
        if None in read and of_entry is not None:
            counts.add(of_entry)
        if len(counts) > 1:
            given = " and ".join(str(count) for count in sorted(counts))
            raise OnnxFileError(f"the channels at {node.name} do not fit: {given}", _DAMAGED)
        if None in read and counts:
            (of_entry,) = counts
        if node.op_type == "Conv":
            channels[node.output[0]] = _filters(node, weights).shape[0]
        else:
            channels[node.output[0]] = counts.pop() if counts else None
    return of_entry


def _filters(node: onnx.NodeProto, weights: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the filters of a convolution, [outputs, inputs, h, w], that fit it and its biases."""
    filters = weights[node.input[1]]
    window = tuple(attributes_of(node)["kernel_shape"])
    if filters.dtype != np.float32 or filters.ndim != 4 or filters.shape[2:] != window:
        raise OnnxFileError(
            f"the filters of {node.name} are {filters.dtype} {list(filters.shape)}, not float32 "
            f"[outputs, inputs, {window[0]}, {window[1]}]",
            _DAMAGED,
        )
    if 0 in filters.shape:
        raise OnnxFileError(f"{node.name} has no filters", _DAMAGED)
    if len(node.input) > 2:
        biases = weights[node.input[2]]
        if biases.dtype != np.float32 or biases.shape != filters.shape[:1]:
            raise OnnxFileError(
                f"the biases of {node.name} are {biases.dtype} {list(biases.shape)}, not float32 "
                f"[{filters.shape[0]}]",
                _DAMAGED,
            )
    return filters
