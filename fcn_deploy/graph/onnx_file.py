"""An ONNX file of ours: what rides in its metadata, and how to read it.  Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import ArtifactError, BackendError, OnnxFileError
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.graph.nodes import producers_of

if TYPE_CHECKING:
    import onnx

#: Keys of the file's metadata_props.
SPEC_KEY = "fcn_deploy.spec"
PRECISION_KEY = "fcn_deploy.precision"
CHECKPOINT_DIGEST_KEY = "fcn_deploy.checkpoint_digest"
TAIL_KEY = "fcn_deploy.tail"
FOREIGN_REPAIR = "give a file that `fcn-deploy export` wrote"
#: What puts pixels in place, and works on C values for each as it does on one: DepthToSpace reads
#: the channels as (C, s, s), which is mode CRD.
PLACING = ("Transpose", "DepthToSpace", "Slice")


@dataclass(frozen=True)
class OnnxMetadata:
    """What rides inside an ONNX file of ours.

    Attributes:
        spec: classes, colours, normalisation.
        precision: of the network's arithmetic.
        checkpoint_digest: of the checkpoint it was exported from.
        outputs: names of the graph's outputs.
        tail: the form of its upsampling, a value of :class:`fcn_deploy.spec.Tail`; None in files
            that do not tell, and in the baseline.
    """

    spec: ModelSpec
    precision: Precision
    checkpoint_digest: str
    outputs: tuple[str, ...]
    tail: str | None = None


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        OnnxFileError: missing, truncated or no ONNX file.
        BackendError: the onnx package is missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:  # a target device may hold engines alone, and come without
        raise BackendError(f"onnx is not installed ({error})", "pip install onnx") from error

    try:
        # Ours hold their weights; a foreign file must not make us open others.
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise OnnxFileError(f"no ONNX file {path}", "run `fcn-deploy export` first") from error
    except OSError as error:
        raise OnnxFileError(f"cannot read {path}: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise OnnxFileError(f"{path} is truncated or no ONNX file", FOREIGN_REPAIR) from error
    if not model.graph.node:
        raise OnnxFileError(f"{path} is truncated or no ONNX file", FOREIGN_REPAIR)
    return model


def read_metadata(path: Path) -> OnnxMetadata:
    """Read what `export` wrote into the file's metadata.

    Raises:
        OnnxFileError: unreadable, or not written by `fcn-deploy export`.
        BackendError: the onnx package is missing.
    """
    model = load_onnx(path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    try:
        return OnnxMetadata(
            spec=ModelSpec.from_json(properties[SPEC_KEY]),
            precision=Precision(properties[PRECISION_KEY]),
            checkpoint_digest=properties[CHECKPOINT_DIGEST_KEY],
            outputs=tuple(output.name for output in model.graph.output),
            tail=properties.get(TAIL_KEY),
        )
    except (KeyError, ValueError) as error:
        raise OnnxFileError(f"{path} carries no fcn-deploy spec", FOREIGN_REPAIR) from error
    except ArtifactError as error:
        raise OnnxFileError(f"{path}: {error.message}", error.repair or FOREIGN_REPAIR) from error


def shape_arithmetic(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the nodes that compute with sizes and constants, not with pixels."""
    pixels = {value.name for value in model.graph.input}
    names = set()
    for node in model.graph.node:  # in the order of computing
        if node.op_type == "Shape" or not pixels.intersection(node.input):
            names.add(node.name)
        else:
            pixels.update(node.output)
    return frozenset(names)


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what its argmax reads made visible as the output ``logits``.

    Where the mask's pixels are put in place after the argmax, the logits' pixels are by copies of
    the same nodes.

    Args:
        model: gives ``mask``, made by an ArgMax; it is changed.

    Raises:
        OnnxFileError: the graph has no argmax, or more than one, or makes the mask of it in a way
            that `fcn-deploy export` does not.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    argmaxes = [node for node in graph.node if node.op_type == "ArgMax"]
    if len(argmaxes) != 1:
        raise OnnxFileError(
            f"expected one ArgMax in the graph, found {len(argmaxes)}", FOREIGN_REPAIR
        )
    steps = [node for node in _steps_to_mask(graph, argmaxes[0]) if node.op_type in PLACING]
    logits = argmaxes[0].input[0]
    if steps:
        # [N, h+1, w+1, C·s²], which a Reshape has split into classes and pixels for the argmax.
        split = next((node for node in graph.node if logits in node.output), None)
        if split is None or split.op_type != "Reshape":
            raise OnnxFileError(
                "the graph's ArgMax reads no Reshape, but pixels are put in place after it",
                FOREIGN_REPAIR,
            )
        logits = split.input[0]
    for step in steps:
        copied = graph.node.add()
        copied.CopyFrom(step)
        copied.name = f"{step.name}.logits"
        copied.input[0], copied.output[0] = logits, f"{step.output[0]}.logits"
        logits = copied.output[0]
    graph.node.append(helper.make_node("Cast", [logits], ["logits"], to=TensorProto.FLOAT))
    graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C", "H", "W"])
    )
    return model


def _steps_to_mask(graph: onnx.GraphProto, argmax: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes between the argmax and the mask, in the order of computing.

    Raises:
        OnnxFileError: one of them is none that an export has there.
    """
    maker = producers_of(graph)
    steps: list[onnx.NodeProto] = []
    node = maker.get("mask", argmax)
    while node != argmax:
        if (
            node.op_type not in (*PLACING, "Cast", "Squeeze", "Identity")
            or node.input[0] not in maker
        ):
            between = f"a {node.op_type} stands between the graph's ArgMax and its mask"
            raise OnnxFileError(between, FOREIGN_REPAIR)
        if node.op_type == "DepthToSpace" and not any(
            attribute.name == "mode" and attribute.s == b"CRD" for attribute in node.attribute
        ):
            raise OnnxFileError("the graph's DepthToSpace is not of mode CRD", FOREIGN_REPAIR)
        steps.insert(0, node)
        node = maker[node.input[0]]
    return steps
