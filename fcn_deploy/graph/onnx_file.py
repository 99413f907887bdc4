"""An ONNX file of ours: what rides in its metadata, and how to read it.  Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx.version_converter

from fcn_deploy.core.errors import ArtifactError, BackendError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, Tail

if TYPE_CHECKING:
    import onnx


#: Keys of the file's metadata_props.
SPEC_KEY = "fcn_deploy.spec"
PRECISION_KEY = "fcn_deploy.precision"
CHECKPOINT_DIGEST_KEY = "fcn_deploy.checkpoint_digest"
TAIL_KEY = "fcn_deploy.tail"
FOREIGN_REPAIR = "give a file that `fcn-deploy export` wrote"


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


def write_metadata(
    graph: onnx.ModelProto,
    spec: ModelSpec,
    precision: Precision,
    checkpoint_digest: str,
    tail: Tail | None = None,
) -> None:
    """Put into the file what later stages must know of the model."""
    entries = {
        SPEC_KEY: spec.to_json(),
        PRECISION_KEY: precision.value,
        CHECKPOINT_DIGEST_KEY: checkpoint_digest,
    }
    if tail is not None:
        entries[TAIL_KEY] = tail.value
    for key, value in entries.items():
        graph.metadata_props.add(key=key, value=value)
    graph.producer_name = "fcn-deploy"


def require_model(run: Run, precision: Precision) -> tuple[Path, OnnxMetadata]:
    """Return a run's ONNX file of that precision, and what rides in it.

    Raises:
        MissingStageError: the run has not been exported in that precision.
        OnnxFileError: the file is not ours, of another precision, or older than the checkpoint.
    """
    path = run.require_onnx(precision)
    metadata = read_metadata(path)
    # A file given by name says itself what it is, unless another precision was asked for.
    asked = run.named_file is None or precision is not Precision.FP32
    if metadata.precision is not precision and asked:
        raise OnnxFileError(
            f"{path} holds a {metadata.precision.value} network, not {precision.value}",
            "export it again" + (f", or drop{precision.flag}" if precision.flag else ""),
        )
    if run.checkpoint.is_file() and file_digest(run.checkpoint) != metadata.checkpoint_digest:
        raise OnnxFileError(
            f"{path} was exported from another checkpoint than {run.checkpoint}",
            f"run `fcn-deploy export{run.command_suffix}{precision.flag}` again",
        )
    return path, metadata
