"""What is done to an OpenVINO graph so that it computes what it says.  Knows no torch.

Two precisions in one graph, bfloat16 where it may be and else float32:

    graph ──as text──▶ all nodes but some marked "precise" ──read back──▶ graph ──▶ compiled

Asked for bfloat16, OpenVINO takes it for all nodes without that mark.  It has no call that sets
one; the text of a graph (OpenVINO IR) carries it, as what its FP16 compression leaves alone.
Whether a release heeds it on a CPU, the compiled graph tells: :func:`require_two_precisions`.

And a way around kernels that give wrong numbers: :func:`gone_wrong`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fcn_deploy.bf16x3_graph import IN_BF16
from fcn_deploy.errors import BackendError

#: The mark, by its name in the text.
_PRECISE = "precise"
#: They compute nothing.
_ENDS = ("Const", "Parameter", "Result")


def in_two_precisions(core: Any, graph: Any) -> Any:
    """Return a graph of `with_three_products` that rounds nothing but what is named so.

    Args:
        core: OpenVINO's.
        graph: its model, of such an ONNX file; it is changed.
    """
    import openvino

    for node in graph.get_ops():
        simpler = _simpler(node)
        if simpler is not None:
            simpler.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(simpler.output(0))
    with TemporaryDirectory() as folder:
        text, weights = Path(folder, "graph.xml"), Path(folder, "graph.bin")
        openvino.serialize(graph, text, weights)
        tree = ElementTree.parse(text)
        values = np.fromfile(weights, np.uint8)
    for layer in tree.iter("layer"):
        if layer.get("type") not in _ENDS and not layer.get("name", "").endswith(IN_BF16):
            _mark(layer)
    return core.read_model(ElementTree.tostring(tree.getroot()), openvino.Tensor(values))


def _simpler(node: Any) -> Any:
    """Return a node of an older set of operations that gives the same, or None.

    Compiling would put it there, and what it puts in the place of a node has no mark.
    """
    kind, given = node.get_type_name(), node.get_attributes()
    if kind == "MaxPool" and node.get_output_size() == 2:  # the second gives indices
        if set(given["dilations"]) == {1} and not node.output(1).get_target_inputs():
            return _pooling(node, given)
    elif kind == "Interpolate" and node.type_info.version_id == "opset11":
        return _interpolation(node, given)
    return None


def _pooling(node: Any, given: dict[str, Any]) -> Any:
    from openvino import opset1

    return opset1.max_pool(
        node.input_value(0), given["strides"], given["pads_begin"], given["pads_end"],
        given["kernel"], given["rounding_type"], given["auto_pad"],
    )  # fmt: skip


def _interpolation(node: Any, given: dict[str, Any]) -> Any:
    from openvino import opset10

    picture, wanted, *axes = node.input_values()
    # Two inputs for what is one since: the one that is not looked at must be there.
    by_sizes = given["shape_calculation_mode"] == "sizes"
    other = np.ones(wanted.get_shape(), np.float32 if by_sizes else np.int64)
    sizes, scales = (wanted, other) if by_sizes else (other, wanted)
    return opset10.interpolate(picture, sizes, scales, **given, axes=axes[0] if axes else None)


def _mark(layer: ElementTree.Element) -> None:
    notes = layer.find("rt_info")
    if notes is None:
        notes = ElementTree.Element("rt_info")
        parts = [part.tag for part in layer]
        layer.insert(parts.index("data") + 1 if "data" in parts else 0, notes)
    ElementTree.SubElement(notes, "attribute", name=_PRECISE, version="0")


def require_two_precisions(compiled: Any, products: int | None) -> None:
    """Raise unless a compiled graph rounds to bfloat16 what is named so, and nothing else.

    Args:
        compiled: by OpenVINO, of what :func:`in_two_precisions` gave.
        products: convolutions that are computed in bfloat16.

    Raises:
        BackendError: another node reads bfloat16, or a convolution rounds what it gives.
    """
    found = 0
    for node in compiled.get_runtime_model().get_ops():
        name = node.get_friendly_name()
        kind = entry(node, "layerType")
        if kind == "Convolution" and name.endswith(IN_BF16):
            found += entry(node, "primitiveType").endswith("_bf16")
            rounds = _is_bf16(node.output(0))
        else:
            rounds = IN_BF16 not in name and any(map(_is_bf16, node.inputs()))
        if rounds:
            raise BackendError(
                f"OpenVINO rounds to bfloat16 at {name}, which is to keep float32",
                "pip install -U openvino, or use --backend openvino",
            )
    if found != products:
        raise BackendError(
            f"OpenVINO was asked for {products} convolutions in bfloat16 and computes {found}",
            "use --backend openvino",
        )


def gone_wrong(graph: Any) -> list[Any]:
    """Return the convolutions that OpenVINO gets wrong in any precision but float32.

    On a CPU with AMX, those that stride over columns and give a single one, of several rows, come
    out as any numbers, up to 1e35 (oneDNN as of 3.12, pytorch issue 169688; in OpenVINO 2026.4, in
    bfloat16 and in INT8).  A picture at most 32 pixels wide, and taller, ends so in a ResNet.

    Args:
        graph: its model, all sizes known.
    """
    found = []
    for node in graph.get_ops():
        if node.get_type_name() == "Convolution" and node.get_attributes()["strides"][-1] > 1:
            *_, kernel_height, kernel_width = node.input_value(1).get_shape()
            *_, height, width = node.output(0).get_shape()
            if width == 1 and height > 1 and (kernel_height, kernel_width) != (1, 1):
                found.append(node)
    return found


def widen(convolutions: list[Any]) -> None:
    """Let convolutions give a column more, of zeros beyond the border, and drop it behind them."""
    from openvino import opset8

    for node in convolutions:
        given = node.get_attributes()
        above, left = given["pads_begin"]
        below, right = given["pads_end"]
        wide = opset8.convolution(
            node.input_value(0), node.input_value(1), given["strides"],
            [above, left], [below, right + given["strides"][-1]], given["dilations"],
        )  # fmt: skip
        narrow = opset8.slice(wide, [0], [1], [1], [3])
        wide.set_friendly_name(node.get_friendly_name())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(narrow.output(0))


def _is_bf16(port: Any) -> bool:
    import openvino

    return bool(port.get_element_type() == openvino.Type.bf16)


def entry(node: Any, key: str) -> str:
    """Return what a node of a compiled graph says of itself."""
    value = node.get_rt_info()[key]
    return value if isinstance(value, str) else str(value.astype(str))
