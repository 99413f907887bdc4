"""An ONNX file of ours, read once: its bytes, their digest, its graph and what `export` wrote in.

    file = OnnxFile(Path("runs/fcn/model.onnx"))
    file.metadata.precision, file.digest

Whoever needs a file's content takes an :class:`OnnxFile`, not a path: a digest is then of the bytes
that were computed with.  Knows no torch.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import ArtifactError, BackendError, OnnxFileError, cannot_import
from fcn_deploy.core.files import content_digest, file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import SPEC_KEY, BatchShape, ModelSpec, Precision, Tail

if TYPE_CHECKING:
    import onnx


#: Keys of the file's metadata_props.
PRECISION_KEY = "fcn_deploy.precision"
CHECKPOINT_DIGEST_KEY = "fcn_deploy.checkpoint_digest"
TAIL_KEY = "fcn_deploy.tail"
FOREIGN_REPAIR = "give a file that `fcn-deploy export` wrote"


@dataclass(frozen=True)
class OnnxMetadata:
    """What is stored in an ONNX file of ours.

    Attributes:
        spec: classes, colours, normalisation.
        precision: of the network's arithmetic.
        checkpoint_digest: of the checkpoint it was exported from.
        outputs: names of the graph's outputs.
        tail: the form of its upsampling, a value of :class:`fcn_deploy.core.spec.Tail`; None in
            files that do not tell, and in the baseline.
    """

    spec: ModelSpec
    precision: Precision
    checkpoint_digest: str
    outputs: tuple[str, ...]
    tail: str | None = None


@dataclass(frozen=True)
class WrittenOnnx:
    """An ONNX file that was written.

    Attributes:
        path: of the file.
        digest: of the file.
        outputs: names of the graph's outputs.
        opset: of the graph.
        num_nodes: nodes of the graph.
    """

    path: Path
    digest: str
    outputs: tuple[str, ...]
    opset: int
    num_nodes: int


@dataclass(frozen=True)
class CheckedOnnx(WrittenOnnx):
    """A written file that was checked against what it was made of.

    Attributes:
        precision: of the network's arithmetic.
        checked_shapes: (N, H, W) at which the two agreed; empty where unchecked.
    """

    precision: Precision
    checked_shapes: tuple[BatchShape, ...]


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """An ONNX file, read from the disk when something of it is first asked for.

    Attributes:
        path: of the file.
    """

    path: Path

    @cached_property
    def bytes(self) -> builtins.bytes:
        """The content.

        Raises:
            OnnxFileError: it cannot be read, or has changed since it was read and released.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise OnnxFileError(
                f"no ONNX file {self.path}", "run `fcn-deploy export` first"
            ) from error
        except OSError as error:
            raise OnnxFileError(
                f"cannot read {self.path}: {error.strerror}", FOREIGN_REPAIR
            ) from error
        known = vars(self).get("digest")  # of a reading before
        if known is not None and content_digest(content) != known:
            raise OnnxFileError(f"{self.path} has changed since it was opened", "open it anew")
        return content

    @cached_property
    def digest(self) -> str:
        """``sha256:…`` of the content."""
        return content_digest(self.bytes)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph, which all who have this file share: copy it to change it.

        Raises:
            OnnxFileError: the file is missing, truncated or no ONNX file, or keeps its weights
                elsewhere.
            BackendError: the onnx package is missing.
        """
        try:
            import onnx
            from google.protobuf.message import DecodeError
        except ImportError as error:  # a target device may hold engines alone, and come without
            what = cannot_import(f"reading {self.path}", error)
            raise BackendError(what, "pip install onnx") from error

        foreign = OnnxFileError(f"{self.path} is truncated or no ONNX file", FOREIGN_REPAIR)
        try:
            # Ours hold their weights; a foreign file must not make us open others.
            model: onnx.ModelProto = onnx.load_model_from_string(self.bytes)
        except (DecodeError, ValueError) as error:
            raise foreign from error
        if not model.graph.node:
            raise foreign
        if _keeps_weights_elsewhere(model.graph, *model.functions):
            raise OnnxFileError(f"{self.path} keeps its weights in another file", FOREIGN_REPAIR)
        return model

    @cached_property
    def metadata(self) -> OnnxMetadata:
        """What `export` wrote into the file.

        Raises:
            OnnxFileError: unreadable, or not written by `fcn-deploy export`.
            BackendError: the onnx package is missing.
        """
        properties = {entry.key: entry.value for entry in self.model.metadata_props}
        try:
            return OnnxMetadata(
                spec=ModelSpec.from_json(properties[SPEC_KEY]),
                precision=Precision(properties[PRECISION_KEY]),
                checkpoint_digest=properties[CHECKPOINT_DIGEST_KEY],
                outputs=tuple(output.name for output in self.model.graph.output),
                tail=properties.get(TAIL_KEY),
            )
        except (KeyError, ValueError) as error:
            raise OnnxFileError(
                f"{self.path} carries no fcn-deploy spec", FOREIGN_REPAIR
            ) from error
        except ArtifactError as error:
            raise OnnxFileError(
                f"{self.path}: {error.message}", error.repair or FOREIGN_REPAIR
            ) from error

    def release(self) -> None:
        """Let go of content and graph, 44 MB each for a ResNet-18; digest and metadata stay.

        What is asked for afterwards is read again, and refused if it is not the same any more.
        """
        if "bytes" in vars(self):
            self.digest  # noqa: B018 (of what was read; a later reading is held against it)
        for name in ("bytes", "model"):
            vars(self).pop(name, None)


def _keeps_weights_elsewhere(*parts: onnx.GraphProto | onnx.FunctionProto) -> bool:
    from onnx import FunctionProto, SparseTensorProto, TensorProto

    tensors, sparse = list[TensorProto](), list[SparseTensorProto]()
    for part in parts:
        if not isinstance(part, FunctionProto):  # whose weights are constants
            tensors += part.initializer
            sparse += part.sparse_initializer
        for node in part.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
                if _keeps_weights_elsewhere(attribute.g, *attribute.graphs):
                    return True
    tensors += [tensor for one in sparse for tensor in (one.values, one.indices)]
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors)


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


def require_model(run: Run, precision: Precision) -> OnnxFile:
    """Return a run's ONNX file of that precision.

    Raises:
        MissingStageError: the run has not been exported in that precision.
        OnnxFileError: the file is not ours, of another precision, or older than the checkpoint.
    """
    file = OnnxFile(run.require_onnx(precision))
    metadata = file.metadata
    # A file given by name says itself what it is, unless another precision was asked for.
    asked = run.named_file is None or precision is not Precision.FP32
    if metadata.precision is not precision and asked:
        raise OnnxFileError(
            f"{file.path} holds a {metadata.precision.value} network, not {precision.value}",
            "export it again" + (f", or drop{precision.flag}" if precision.flag else ""),
        )
    if run.is_foreign:
        if not run.original.is_file() or file_digest(run.original) != metadata.checkpoint_digest:
            raise OnnxFileError(
                f"{file.path} was not made from {run.original}",
                f"run `fcn-deploy import onnx:FILE{run.out_option} --overwrite`",
            )
    elif run.checkpoint.is_file() and file_digest(run.checkpoint) != metadata.checkpoint_digest:
        raise OnnxFileError(
            f"{file.path} was exported from another checkpoint than {run.checkpoint}",
            f"run `fcn-deploy export{run.command_suffix}{precision.flag}` again",
        )
    return file
