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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.onnx_file import OnnxFile, OnnxMetadata
from fcn_deploy.parity.layer_pairs import LayerPair, paired_layers
from fcn_deploy.parity.segments import SegmentedGraph
from fcn_deploy.results.environment import result_header

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
    reference: OnnxFile,
    candidate: OnnxFile,
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
        reference: the FP32 file.
        candidate: the file in question.
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
    _refuse_strangers(reference.path, reference.metadata, candidate.path, candidate.metadata)
    precision = candidate.metadata.precision
    if tolerance is None:
        if precision not in TOLERANCES:
            raise InputError(f"no tolerance is known for {precision.value}", "give one")
        tolerance = TOLERANCES[precision]
    pairs = paired_layers(reference.model, candidate.model)
    chunks = [pairs[i : i + layers_at_once] for i in range(0, len(pairs), layers_at_once)]
    expected = SegmentedGraph(
        reference.model, [[pair.tensor for pair in c] for c in chunks], threads
    )
    given = SegmentedGraph(
        with_explicit_rounding(candidate.model),
        [[pair.candidate_tensor for pair in c] for c in chunks],
        threads,
    )
    for file in (reference, candidate):
        file.release()  # the sessions have what they need
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
        ProbedFile(str(reference.path), reference.digest, reference.metadata.precision),
        ProbedFile(str(candidate.path), candidate.digest, precision),
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


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
