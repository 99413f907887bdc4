"""Where does it go wrong?  Finds the first layer whose output leaves its tolerance.

    reference, candidate ──▶ pairs of layers ──▶ both computed, a few layers at a time
                                                     └──▶ sums of errors ──▶ BisectResult

What is measured: every layer's output in both files, each file fed with the picture and with what
its own earlier layers gave, so that errors add up along the network as they do in use.  Both run
on ONNX Runtime's CPU provider with all graph optimisations off, hence without fusions: each node
is computed alone, and the difference is the candidate's rounding, not another kernel's.

Half precision is rounded by us; :mod:`fcn_deploy.half_precision` says why.

A quantised (Q/DQ) file is computed as written: float arithmetic between QuantizeLinear and
DequantizeLinear pairs, and a layer's output is taken as its reader sees it, dequantised.

Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError, OnnxFileError
from fcn_deploy.core.files import file_digest, write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.fp16_rounding import tensor_types, with_explicit_rounding
from fcn_deploy.graph.nodes import initializers_of
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, OnnxMetadata, load_onnx, read_metadata
from fcn_deploy.results.environment import result_header

if TYPE_CHECKING:
    import onnx

BISECT_SCHEMA = 1
#: Layers whose outputs are held in memory at once; the figures do not depend on it.
LAYERS_AT_ONCE = 8
#: Relative RMS error that a layer's output may have, by the candidate's precision.  Rounding to
#: half costs 2^-11/√3 = 2.8e-4 RMS at most, once for every tensor and weight, and such errors add
#: up in squares.  A trained fcn32s-resnet18 (CamVid, 12 pictures of its validation set) has 6.8e-4
#: after its first convolution, 1.55e-3 at its worst (layer3.0.downsample) and 7.4e-4 in the
#: logits; 1e-2 leaves a factor of six for deeper bodies, and is what parity's gate grants the
#: logits.  FP32 files may differ by the order of sums alone.  INT8 rounds to steps of 1/127 of the
#: largest value: the same network has 0.055 at its worst (layer2.0.downsample) and 0.013 in the
#: logits; 0.2 leaves a factor of four, and a scale that is wrong by more shows.
TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.INT8: 0.2}


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


@dataclass(frozen=True)
class LayerError:
    """How far a layer's output is from the reference's, over all pictures.

    Attributes:
        name: of the node, after the module that it comes from.
        operator: of the node, e.g. ``Conv``.
        tensor: name of the output in the reference.
        shape: of the output on the first picture.
        scale: RMS of the reference's output.
        max_error: largest |Δ|; infinite where the candidate is not finite.
        rms_error: RMS of Δ; infinite where the candidate is not finite.
        relative_error: ``rms_error`` over ``scale``.
        finite: whether the candidate's output is.
        beyond: whether ``relative_error`` exceeds the tolerance or the output is not finite.
    """

    name: str
    operator: str
    tensor: str
    shape: tuple[int, ...]
    scale: float
    max_error: float
    rms_error: float
    relative_error: float
    finite: bool
    beyond: bool

    def to_json(self) -> dict[str, Any]:
        """Return the layer as JSON values; what is not finite becomes null."""
        return {
            "name": self.name,
            "operator": self.operator,
            "tensor": self.tensor,
            "shape": list(self.shape),
            "scale": _number(self.scale),
            "max_error": _number(self.max_error),
            "rms_error": _number(self.rms_error),
            "relative_error": _number(self.relative_error),
            "finite": self.finite,
            "beyond": self.beyond,
        }


@dataclass(frozen=True)
class ProbedFile:
    """One of the two ONNX files.

    Attributes:
        file: its path.
        digest: of the file.
        precision: of the network's arithmetic.
    """

    file: str
    digest: str
    precision: Precision

    def to_json(self) -> dict[str, Any]:
        """Return the file as JSON values."""
        return {"file": self.file, "digest": self.digest, "precision": self.precision.value}


@dataclass(frozen=True)
class BisectResult:
    """A finished bisection; :meth:`to_json` is what is saved and reported.

    Attributes:
        reference: the FP32 file.
        candidate: the file in question.
        source: where the pictures come from.
        pictures: how many there were.
        tolerance: relative RMS error that a layer's output may have.
        layers: in the order of computing.
    """

    reference: ProbedFile
    candidate: ProbedFile
    source: str
    pictures: int
    tolerance: float
    layers: tuple[LayerError, ...]

    @property
    def first(self) -> LayerError | None:
        """The first layer beyond its tolerance, None where there is none."""
        return next((layer for layer in self.layers if layer.beyond), None)

    def to_json(self) -> dict[str, Any]:
        """Return the bisection as JSON values."""
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "images": {"source": self.source, "count": self.pictures},
            "tolerance": self.tolerance,
            "layers": [layer.to_json() for layer in self.layers],
            "first": self.first.name if self.first else None,
        }


def bisect(
    reference_path: Path,
    candidate_path: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    source: str,
    threads: int,
    tolerance: float | None = None,
    layers_at_once: int = LAYERS_AT_ONCE,
    on_picture: Callable[[], None] = lambda: None,
) -> BisectResult:
    """Compare two ONNX files of one checkpoint, layer by layer.

    Args:
        reference_path: the FP32 file.
        candidate_path: the file in question.
        pictures: uint8 [H, W, 3] each, of any sizes, taken one at a time.
        source: where they come from, for the record.
        threads: of each session's intra-op pool.
        tolerance: relative RMS error that a layer's output may have; by default that of the
            candidate's precision.
        layers_at_once: outputs held in memory at a time; changes no figure.
        on_picture: called after each picture.

    Raises:
        OnnxFileError: a file is unreadable, foreign, or refused by ONNX Runtime.
        InputError: the files come from different checkpoints or share no layers, the reference is
            not FP32 or not finite, or there are no pictures.
        BackendError: the onnx package is missing.
    """
    reference_metadata, candidate_metadata = map(read_metadata, (reference_path, candidate_path))
    _refuse_strangers(reference_path, reference_metadata, candidate_path, candidate_metadata)
    precision = candidate_metadata.precision
    if tolerance is None:
        if precision not in TOLERANCES:
            raise InputError(f"no tolerance is known for {precision.value}", "give one")
        tolerance = TOLERANCES[precision]
    reference, candidate = load_onnx(reference_path), load_onnx(candidate_path)
    pairs = paired_layers(reference, candidate)
    chunks = [pairs[i : i + layers_at_once] for i in range(0, len(pairs), layers_at_once)]
    expected = _Probe(reference, [[pair.tensor for pair in c] for c in chunks], threads)
    given = _Probe(
        with_explicit_rounding(candidate),
        [[pair.candidate_tensor for pair in c] for c in chunks],
        threads,
    )
    sums = [_Sums() for _ in pairs]
    count = 0
    for picture in pictures:
        chunk_pairs = zip(expected.run(picture[None]), given.run(picture[None]), strict=True)
        outputs = (pair for both in chunk_pairs for pair in zip(*both, strict=True))
        for pair, layer_sums, (wanted, got) in zip(pairs, sums, outputs, strict=True):
            layer_sums.add(pair, wanted, got)
        count += 1
        on_picture()
    if not count:
        raise InputError("no pictures to compare on", "name a folder of pictures with --images")
    return BisectResult(
        ProbedFile(str(reference_path), file_digest(reference_path), reference_metadata.precision),
        ProbedFile(str(candidate_path), file_digest(candidate_path), precision),
        source,
        count,
        tolerance,
        tuple(s.layer_error(pair, tolerance) for pair, s in zip(pairs, sums, strict=True)),
    )


def document(
    result: BisectResult, typed: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return the result file's content, with what it was made by and when.

    Args:
        result: what was found.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command bisected.
    """
    return {
        **result_header("bisect", BISECT_SCHEMA),
        **({} if typed is None else typed),
        **result.to_json(),
    }


def save(
    result: BisectResult, target: Path, *, typed: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write a bisection made on this machine as JSON.

    Args:
        result: what was found.
        target: the file.
        typed: see :func:`document`.

    Raises:
        ArtifactError: the place cannot be written; what was there before stays.
    """
    write_json(target, document(result, typed))


def layer_table(result: BisectResult) -> list[tuple[str, str, str, str, str, str]]:
    """Return a row of words for each layer, in the order of computing.

    Each row: name, operator, shape, scale, relative error, verdict.  The verdict is empty where
    the layer keeps its tolerance.
    """
    return [
        (
            layer.name,
            layer.operator,
            "×".join(map(str, layer.shape)),
            f"{layer.scale:.3g}",
            f"{layer.relative_error:.2g}" if layer.finite else "",
            ("beyond" if layer.finite else "NaN or infinite") if layer.beyond else "",
        )
        for layer in result.layers
    ]


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


def _refuse_strangers(
    reference_path: Path, reference: OnnxMetadata, candidate_path: Path, candidate: OnnxMetadata
) -> None:
    if reference.checkpoint_digest != candidate.checkpoint_digest:
        raise InputError(
            f"{reference_path} and {candidate_path} were exported from different checkpoints "
            f"({reference.checkpoint_digest[:19]}… and {candidate.checkpoint_digest[:19]}…)",
            f"export both again: `fcn-deploy export` and `fcn-deploy export"
            f"{candidate.precision.flag}`",
        )
    if reference.precision is not Precision.FP32:
        raise InputError(
            f"{reference_path} is {reference.precision.value}, the reference must be fp32",
            "give the file that `fcn-deploy export` writes without a precision",
        )


class _Sums:
    """What is kept of a layer while the pictures pass by."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self.values = 0
        self.squares = 0.0
        self.error_squares = 0.0
        self.max_error = 0.0
        self.finite = True

    def add(self, pair: LayerPair, wanted: NDArray[Any], got: NDArray[Any]) -> None:
        """Count one picture's outputs, of one shape.

        Raises:
            InputError: the reference is not finite, or the shapes differ.
        """
        if wanted.shape != got.shape:
            raise InputError(
                f"{pair.name} gives {got.shape} in the candidate, {wanted.shape} in the reference",
                "export both again with `fcn-deploy export`",
            )
        exact = wanted.astype(np.float64)  # squares of float32 may overflow
        if not np.isfinite(exact).all():
            raise InputError(
                f"the reference itself gives NaN or infinity at {pair.name}",
                "the checkpoint is broken: train again",
            )
        if self.shape is None:
            self.shape = exact.shape
        self.values += exact.size
        self.squares += float(np.square(exact).sum())
        if not np.isfinite(got).all():
            self.finite = False
            self.max_error = self.error_squares = math.inf
            return
        error = np.abs(got - exact)
        self.max_error = max(self.max_error, float(error.max(initial=0.0)))
        self.error_squares += float(np.square(error).sum())

    def layer_error(self, pair: LayerPair, tolerance: float) -> LayerError:
        """Return what the sums say."""
        values = max(self.values, 1)
        scale, rms_error = math.sqrt(self.squares / values), math.sqrt(self.error_squares / values)
        relative = 0.0  # a layer that is all zeros may only stay so
        if rms_error > 0:
            relative = rms_error / scale if scale > 0 else math.inf
        return LayerError(
            name=pair.name,
            operator=pair.operator,
            tensor=pair.tensor,
            shape=self.shape or (),
            scale=scale,
            max_error=self.max_error,
            rms_error=rms_error,
            relative_error=relative,
            finite=self.finite,
            beyond=not self.finite or relative > tolerance,
        )


class _Probe:
    """A graph cut into segments, so that only a few layers' outputs are in memory at once.

    Args:
        model: the graph, with float32 arithmetic.
        chunks: names of the tensors to see, in the order of computing.
        threads: of each session's intra-op pool.

    Raises:
        OnnxFileError: ONNX Runtime refuses a segment.
    """

    def __init__(
        self, model: onnx.ModelProto, chunks: Sequence[Sequence[str]], threads: int
    ) -> None:
        self._chunks = chunks
        (image,) = (value.name for value in model.graph.input)
        self._image = image
        weights = initializers_of(model.graph)
        types = tensor_types(model)
        segments = _segments(model, chunks)
        reads = [_inputs(segment) - weights.keys() for segment in segments]
        #: Tensor → the last segment that reads it or at whose end it is looked at.
        self._last_use: dict[str, int] = {}
        for number, (names, chunk) in enumerate(zip(reads, chunks, strict=True)):
            self._last_use.update(dict.fromkeys((*names, *chunk), number))
        self._sessions: list[tuple[Any, list[str], list[str]] | None] = []
        for number, (segment, names) in enumerate(zip(segments, reads, strict=True)):
            made = [output for node in segment for output in node.output if output]
            if not segment:  # an earlier one has made all that this chunk looks at
                self._sessions.append(None)
                continue
            outputs = [
                name
                for name in made
                if name in chunks[number] or self._last_use.get(name, -1) > number
            ]
            inputs = sorted(names.difference(made))
            session = _segment_session(model, segment, inputs, outputs, weights, types, threads)
            self._sessions.append((session, inputs, outputs))

    def run(self, images: NDArray[np.uint8]) -> Iterator[list[NDArray[Any]]]:
        """Compute uint8 [1, H, W, 3]; yield each chunk's tensors when they are there."""
        live: dict[str, NDArray[Any]] = {self._image: images}
        for number, (chunk, opened) in enumerate(zip(self._chunks, self._sessions, strict=True)):
            if opened is not None:
                session, inputs, outputs = opened
                given = session.run(outputs, {name: live[name] for name in inputs})
                live.update(zip(outputs, given, strict=True))
                del given
            yield [live[name] for name in chunk]
            live = {n: tensor for n, tensor in live.items() if self._last_use.get(n, -1) > number}


def _segments(
    model: onnx.ModelProto, chunks: Sequence[Sequence[str]]
) -> list[list[onnx.NodeProto]]:
    """Return for each chunk the nodes that it needs beyond those of the chunks before it."""
    nodes = list(model.graph.node)
    maker = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    done: set[int] = set()
    segments = []
    for chunk in chunks:
        needed: set[int] = set()
        waiting = [maker[name] for name in chunk]
        while waiting:
            index = waiting.pop()
            if index in done or index in needed:
                continue
            needed.add(index)
            waiting.extend(maker[name] for name in nodes[index].input if name in maker)
        done |= needed
        segments.append([nodes[index] for index in sorted(needed)])  # ONNX graphs are sorted
    return segments


def _inputs(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input if name}


def _segment_session(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, onnx.TensorProto],
    types: Mapping[str, int],
    threads: int,
) -> Any:
    import onnxruntime
    from onnx import helper

    untyped = [name for name in (*inputs, *outputs) if name not in types]
    if untyped:
        raise OnnxFileError(f"the graph does not tell the type of {untyped[0]}", FOREIGN_REPAIR)
    graph = helper.make_graph(
        nodes,
        "segment",
        [helper.make_tensor_value_info(name, types[name], None) for name in inputs],
        [helper.make_tensor_value_info(name, types[name], None) for name in outputs],
        [weights[name] for name in sorted(_inputs(nodes) & weights.keys())],
    )
    segment = helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=list(model.opset_import)
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several sessions wait in turn; a pool that spins meanwhile would take the next one's cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it would keep each segment's peak for good
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            segment.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"ONNX Runtime refuses the file: {error}", FOREIGN_REPAIR) from error


def _is_float(element_type: int | None) -> bool:
    from onnx import TensorProto

    return element_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _computed_from_pixels(model: onnx.ModelProto) -> set[str]:
    names = {value.name for value in model.graph.input}
    for node in model.graph.node:
        # Sizes are no values, and classes no quantities: one flip is a jump, not an error.
        if node.op_type not in ("Shape", "Size", "ArgMax") and not names.isdisjoint(node.input):
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


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
