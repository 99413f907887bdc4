"""An INT8 file as ONNX Runtime's CPU provider computes it in integers.  Knows no torch.

The file holds signed activations with zero point 0 and float sums: TensorRT's rules.  The CPU
provider has fast kernels for unsigned activations alone (on a CPU with VNNI its signed ones took
3.5 times as long as FP32), fuses a Relu away only where 0 is the least value that can be said, and
needs both sides of a sum quantized.  It translates some of that by itself when it opens a file, not
all: as written, the file runs at 0.7 times the speed of FP32, rewritten at 2.2 times.

So the graph is rewritten as it is opened.  On the grid of a scale s, int8 with zero point 0 is
uint8 with zero point 128: the same numbers.  What a Relu gave becomes uint8 with zero point 0,
and the Relu goes; values beyond 127·s, cut off before, are kept up to 255·s.  What a convolution
adds to a residual is rounded to the scale that was measured for it when the file was made.

Without VNNI pairs of products are added in 16 bits, which may saturate, in OpenVINO too: the
runners say so in their description (:data:`SATURATION`), and `parity --int8` on such a machine
tells what it costs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.graph.int8_weights import with_integer_weights
from fcn_deploy.graph.nodes import (
    consumers_of,
    is_never_negative,
    producers_of,
    remove_dead_nodes,
    replace_nodes,
)

if TYPE_CHECKING:
    import onnx

#: Key of the file's metadata_props: tensor → scale, of what sums read without Q/DQ.
SUM_SCALES_KEY = "fcn_deploy.int8_sum_scales"
#: What stands behind the library's name where the CPU adds products of 8 bits in 16.
SATURATION = ", int8 sums may saturate: the CPU has no VNNI"


def quantized_convolutions(model: onnx.ModelProto) -> int:
    """Count the convolutions whose pictures and weights are read from Q/DQ pairs."""
    dequantized = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return sum(
        dequantized.issuperset(node.input[:2])
        for node in model.graph.node
        if node.op_type == "Conv"
    )


def for_onnx_runtime_cpu(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an INT8 graph of ours with unsigned activations, all its sums in integers.

    A graph without the scales of its sums comes back as it is.
    """
    from onnx import ModelProto, helper, numpy_helper

    properties = {entry.key: entry.value for entry in model.metadata_props}
    if SUM_SCALES_KEY not in properties:
        return model
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    with_integer_weights(rewritten)
    graph = rewritten.graph
    maker, readers = producers_of(graph), consumers_of(graph)

    zeros = {0: "uint8_zero", 128: "uint8_middle"}
    for number, name in zeros.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(number, np.uint8), name))
    gone: set[str] = set()  # names of nodes that the integers make superfluous
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear":
            continue
        exact = node.input[0]
        zero = zeros[0 if is_never_negative(exact, maker) else 128]
        node.input[2] = zero
        for reader in readers[node.output[0]]:
            reader.input[2] = zero
        relu = maker[exact]
        if relu.op_type == "Relu" and readers[exact] == [node]:
            node.input[0] = relu.input[0]
            gone.add(relu.name)
    scales: dict[str, float] = json.loads(properties[SUM_SCALES_KEY])
    nodes = []
    for node in graph.node:
        if node.name in gone:
            continue
        nodes.append(node)
        for tensor in (name for name in node.output if name in scales):
            scale, integers, seen = (f"{tensor}_{word}" for word in ("scale", "integers", "seen"))
            value = np.asarray(scales[tensor], np.float32)
            graph.initializer.append(numpy_helper.from_array(value, scale))
            for operator, source, given in (
                ("QuantizeLinear", tensor, integers),
                ("DequantizeLinear", integers, seen),
            ):
                inputs = [source, scale, zeros[128]]
                nodes.append(helper.make_node(operator, inputs, [given], name=given))
            for reader in readers[tensor]:
                for place, name in enumerate(reader.input):
                    if name == tensor:
                        reader.input[place] = seen
    replace_nodes(graph, nodes)
    remove_dead_nodes(graph)  # the signed zero points
    return rewritten
