"""What is done to an OpenVINO graph so that it computes what it says.  Knows no torch.

Two precisions in one graph, bfloat16 where it may be and else float32:

    graph ──as text──▶ all nodes but some marked "precise" ──read back──▶ graph ──▶ compiled

Asked for bfloat16, OpenVINO takes it for all nodes without that mark.  It has no call that sets
one; the text of a graph (OpenVINO IR) carries it, as what its FP16 compression leaves alone.
Whether a release heeds it on a CPU, the compiled graph tells: :func:`require_two_precisions`.

And a way around kernels that give wrong numbers: :func:`strided_to_one_column`.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np

from fcn_deploy.bf16x3_graph import IN_BF16, REST
from fcn_deploy.errors import BackendError

#: The mark, by its name in the text.
_PRECISE = "precise"
#: They compute nothing.
_ENDS = ("Const", "Parameter", "Result")
#: In a compiled graph: what changes layouts and types between others, as these want it.
_CONVERTS = ("Reorder", "Const", "Input", "Output")


def in_two_precisions(core: Any, graph: Any) -> Any:
    """Return a graph that, asked for bfloat16, takes it only where names end in ``IN_BF16``.

    It passes through a temporary file as large as its weights.

    Args:
        core: OpenVINO's.
        graph: its model, read from what :func:`fcn_deploy.bf16x3_graph.with_three_products` gave.
            It is changed.

    Raises:
        BackendError: there is no room for the temporary file.
    """
    import openvino

    for node in graph.get_ops():
        simpler = _simpler(node)
        if simpler is not None:
            simpler.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(simpler.output(0))
    try:
        with TemporaryDirectory() as folder:
            text, weights = Path(folder, "graph.xml"), Path(folder, "graph.bin")
            openvino.serialize(graph, text, weights)
            tree = ElementTree.parse(text)
            values = np.fromfile(weights, np.uint8)
        _require_whole(tree, values.size)
    # OpenVINO raises RuntimeError, or writes less and says nothing.
    except (OSError, RuntimeError, ElementTree.ParseError) as error:
        raise BackendError(
            f"OpenVINO could not write the graph into a temporary file ({error})",
            "set TMPDIR to a folder with room for the weights",
        ) from error
    for layer in tree.iter("layer"):
        if layer.get("type") not in _ENDS and not layer.get("name", "").endswith(IN_BF16):
            _mark(layer)
    return core.read_model(ElementTree.tostring(tree.getroot()), openvino.Tensor(values))


def _require_whole(tree: ElementTree.ElementTree[Any], written: int) -> None:
    ends = [
        int(data.get("offset", 0)) + int(data.get("size", 0))
        for data in tree.iterfind(".//layer[@type='Const']/data")
    ]
    if max(ends, default=0) > written:
        raise OSError(f"{written} of {max(ends)} bytes of weights are there")


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
    elif kind == "Pad" and node.type_info.version_id == "opset12":
        return _padding(node, given)
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


def _padding(node: Any, given: dict[str, Any]) -> Any:
    from openvino import opset1

    picture, begins, ends, *value = node.input_values()
    return opset1.pad(picture, begins, ends, given["pad_mode"], *value)


def _mark(layer: ElementTree.Element) -> None:
    notes = layer.find("rt_info")
    if notes is None:
        notes = ElementTree.Element("rt_info")
        parts = [part.tag for part in layer]
        layer.insert(parts.index("data") + 1 if "data" in parts else 0, notes)
    ElementTree.SubElement(notes, "attribute", name=_PRECISE, version="0")


def require_two_precisions(compiled: Any, products: int) -> None:
    """Raise unless a compiled graph rounds to bfloat16 what is named so, and nothing else.

    Args:
        compiled: by OpenVINO, asked for bfloat16, of what :func:`in_two_precisions` gave.
        products: convolutions that are computed in bfloat16.

    Raises:
        BackendError: another node reads or gives bfloat16, or a convolution rounds what it gives,
            or another number of them is computed in bfloat16.
    """
    found = 0
    for node in compiled.get_runtime_model().get_ops():
        name, kind = node.get_friendly_name(), runtime_info(node, "layerType")
        reads = [_is_bf16(port) for port in node.inputs()]
        gives = any(map(_is_bf16, node.outputs()))
        if kind in _CONVERTS:
            rounds = False  # whoever reads it so is looked at
        elif kind == "Convolution" and name.endswith(IN_BF16):
            found += runtime_info(node, "primitiveType").lower().endswith("_bf16")
            rounds = gives or any(reads[2:])  # behind picture and weight: bias, sum
        else:
            rounds = not name.endswith(IN_BF16) and (
                any(reads) or (gives and not name.endswith(REST))
            )
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


def strided_to_one_column(graph: Any) -> list[Any]:
    """Return the convolutions that OpenVINO computes wrongly, in other precisions than float32.

    Those that stride over columns and give a single one of several rows come out as any numbers, up
    to 1e35, in bfloat16 and in INT8 on a CPU with AMX (OpenVINO 2026.4.1; pytorch issue 169688 has
    them in oneDNN).  Float32 has other kernels; so have kernels of 1×1.  One row is right, and so
    are strides of 1: tried with 1 to 40 rows, 1 to 17 columns, strides 1 to 4, kernels 1, 3, 5, 7.
    With dilation, in half precision and on other CPUs it was not tried: they are found too, as what
    is done about it is exact everywhere and costs little where pictures are that narrow.

    Args:
        graph: its model, all sizes known.

    Returns:
        Nodes of the graph.
    """
    found = []
    for node in graph.get_ops():
        if node.get_type_name() != "Convolution" or len(node.input_value(1).get_shape()) != 4:
            continue
        kernel = node.input_value(1).get_shape()[2:]
        height, width = node.output(0).get_shape()[2:]
        strides_columns = node.get_attributes()["strides"][-1] > 1
        if strides_columns and width == 1 and height > 1 and set(kernel) != {1}:
            found.append(node)
    return found


def give_spare_column(convolutions: list[Any]) -> None:
    """Let convolutions give a column more, of zeros beyond the border, and drop it behind them.

    Args:
        convolutions: nodes of a graph whose sizes are known; it is changed.
    """
    from openvino import opset8

    for node in convolutions:
        # What auto_pad asked for stands there in numbers, as the sizes are known.
        given = node.get_attributes()
        above, left = given["pads_begin"]
        below, right = given["pads_end"]
        wide = opset8.convolution(
            node.input_value(0), node.input_value(1), given["strides"],
            [above, left], [below, right + given["strides"][-1]], given["dilations"],
        )  # fmt: skip
        wide.set_friendly_name(node.get_friendly_name())
        narrow = opset8.slice(wide, [0], [1], [1], [3])
        narrow.output(0).set_names(node.output(0).get_names())
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(narrow.output(0))


def _is_bf16(port: Any) -> bool:
    import openvino

    return bool(port.get_element_type() == openvino.Type.bf16)


def runtime_info(node: Any, key: str) -> str:
    """Return what a node of a compiled graph says of itself, e.g. its ``layerType``."""
    value = node.get_rt_info()[key]
    return value if isinstance(value, str) else str(value.astype(str))
