"""Pairs the tensors of two ONNX graphs that stand for the same layer output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import InputError
from fcn_deploy.graph.fp16_rounding import tensor_types

if TYPE_CHECKING:
    import onnx


#: Sizes are no values, and classes no quantities: one flip is a jump, not an error.  With a Split a
#: tournament of the classes begins.
_NO_LAYERS = ("Shape", "Size", "ArgMax", "Split")


@dataclass(frozen=True)
class LayerPair:
    """A layer that both files compute.

    Attributes:
        name: of the reference's node, after the module that it comes from.
        operator: of the reference's node, e.g. ``Conv``.
        tensor: the output's name in the reference.
        candidate_tensor: its name in the candidate; another one where it is dequantised there.
    """

    name: str
    operator: str
    tensor: str
    candidate_tensor: str


def paired_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> tuple[LayerPair, ...]:
    """Return the layers that both graphs compute, in the reference's order.

    Paired are floating-point node outputs of one name that depend on the picture's values, not on
    its size alone.  A quantised output is paired as it is read: dequantised.

    Raises:
        InputError: the graphs have fewer than two layers in common.
    """
    reference_types, candidate_types = tensor_types(reference), tensor_types(candidate)
    from_picture = _computed_from_pixels(reference)
    dequantised = _dequantised(candidate)
    made = {output for node in candidate.graph.node for output in node.output}
    pairs = []
    for node in reference.graph.node:
        for tensor in node.output:
            other = dequantised.get(tensor, tensor)
            if (
                tensor in from_picture
                and other in made
                and _is_float(reference_types.get(tensor))
                and _is_float(candidate_types.get(other))
            ):
                pairs.append(LayerPair(node.name or tensor, node.op_type, tensor, other))
    if len(pairs) < 2:
        raise InputError(
            f"the two ONNX files have {len(pairs)} layers in common: one is foreign, or was "
            "optimised by another tool",
            "export both again with `fcn-deploy export`",
        )
    return tuple(pairs)


def _is_float(element_type: int | None) -> bool:
    from onnx import TensorProto

    return element_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _computed_from_pixels(model: onnx.ModelProto) -> set[str]:
    names = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in _NO_LAYERS and not names.isdisjoint(node.input):
            names.update(output for output in node.output if output)
    return names


def _dequantised(model: onnx.ModelProto) -> dict[str, str]:
    """Return tensor → what its readers see of it, for those that pass a Q/DQ pair."""
    nodes = model.graph.node
    quantised = {n.output[0]: n.input[0] for n in nodes if n.op_type == "QuantizeLinear"}
    seen: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantised:
            seen.setdefault(quantised[node.input[0]], node.output[0])
    # A quantizer that put the next layer's activation into the pair may have renamed its input,
    # but the pair bears the first name: ONNX Runtime's.
    made = {output for node in nodes for output in node.output}
    ending = "_DequantizeLinear_Output"
    for name in made:
        if name.endswith(ending) and name.removesuffix(ending) not in made:
            seen.setdefault(name.removesuffix(ending), name)
    return seen
