"""What is done to an OpenVINO graph so that it computes what it says.  Knows no torch."""

from __future__ import annotations

from typing import Any


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


def pad_single_column(convolutions: list[Any]) -> None:
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


def runtime_info(node: Any, key: str) -> str:
    """Return what a node of a compiled graph says of itself, e.g. its ``layerType``."""
    value = node.get_rt_info()[key]
    return value if isinstance(value, str) else str(value.astype(str))
