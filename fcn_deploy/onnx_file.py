"""An ONNX file of ours: what rides in its metadata, and how to read it.  Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.errors import ArtifactError, BackendError, OnnxFileError
from fcn_deploy.spec import ModelSpec, Precision

if TYPE_CHECKING:
    import onnx

#: Keys of the file's metadata_props.
SPEC_KEY = "fcn_deploy.spec"
PRECISION_KEY = "fcn_deploy.precision"
CHECKPOINT_DIGEST_KEY = "fcn_deploy.checkpoint_digest"
FOREIGN_REPAIR = "give a file that `fcn-deploy export` wrote"


@dataclass(frozen=True)
class OnnxMetadata:
    """What rides inside an ONNX file of ours.

    Attributes:
        spec: classes, colours, normalisation.
        precision: of the network's arithmetic.
        checkpoint_digest: of the checkpoint it was exported from.
        outputs: names of the graph's outputs.
    """

    spec: ModelSpec
    precision: Precision
    checkpoint_digest: str
    outputs: tuple[str, ...]


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
        )
    except (KeyError, ValueError) as error:
        raise OnnxFileError(f"{path} carries no fcn-deploy spec", FOREIGN_REPAIR) from error
    except ArtifactError as error:
        raise OnnxFileError(f"{path}: {error.message}", error.repair or FOREIGN_REPAIR) from error


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what its argmax reads made visible as the output ``logits``.

    Raises:
        OnnxFileError: the graph has no argmax, or more than one.
    """
    from onnx import TensorProto, helper

    argmaxes = [node for node in model.graph.node if node.op_type == "ArgMax"]
    if len(argmaxes) != 1:
        raise OnnxFileError(
            f"expected one ArgMax in the graph, found {len(argmaxes)}", FOREIGN_REPAIR
        )
    cast = helper.make_node("Cast", [argmaxes[0].input[0]], ["logits"], to=TensorProto.FLOAT)
    model.graph.node.append(cast)
    model.graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C", "H", "W"])
    )
    return model
