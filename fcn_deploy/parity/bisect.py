"""Where does it go wrong?  Finds the first layer whose output leaves its tolerance.

    reference, candidate ──▶ pairs of layers ──▶ both computed, a few layers at a time
                                                     └──▶ sums of errors ──▶ Bisection

What is measured: every layer's output in both files, each file fed with the picture and with what
its own earlier layers gave, so that errors add up along the network as they do in use.  Both run
on ONNX Runtime's CPU provider with all graph optimisations off, hence without fusions: each node
is computed alone, and the difference is the candidate's rounding, not another kernel's.

Half precision is rounded by us; :mod:`fcn_deploy.graph.fp16_rounding` says why.

A quantised (Q/DQ) file is computed as written: float arithmetic between QuantizeLinear and
DequantizeLinear pairs, and a layer's output is taken as its reader sees it, dequantised.

Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.onnx_file import OnnxFile, OnnxMetadata
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.parity.layer_pairs import LayerPair, paired_layers
from fcn_deploy.parity.segments import SegmentedGraph
from fcn_deploy.results.bisect import BisectedModel, Bisection, Layer, bisect_document
from fcn_deploy.results.fields import finite_or_none

#: Layers whose outputs are held in memory at once; the figures do not depend on it.
LAYERS_AT_ONCE = 8
#: Relative RMS error that a layer's output may have, by the candidate's precision.  Rounding to
#: half costs 2^-11/√3 = 2.8e-4 RMS at most, once for every tensor and weight, and such errors add
#: up in squares.  A trained fcn32s-resnet18 (CamVid, 16 pictures of its validation set) has 3.1e-4
#: after its first convolution, 1.04e-3 at its worst (layer3.0.downsample) and 5.4e-4 in the
#: logits; 1e-2 leaves a factor of nine for deeper bodies, and is what parity's gate grants the
#: logits.  FP32 files may differ by the order of sums alone.  INT8 rounds to steps of 1/127 of the
#: largest value: the same network has 0.055 at its worst (layer2.0.downsample) and 0.013 in the
#: logits; 0.2 leaves a factor of four, and a scale that is wrong by more shows.
TOLERANCES = {Precision.FP32: 1e-4, Precision.FP16: 1e-2, Precision.INT8: 0.2}


def bisect(
    reference: OnnxFile,
    candidate: OnnxFile,
    pictures: Pictures,
    *,
    threads: int,
    tolerance: float | None = None,
    on_picture: Callable[[], None] = lambda: None,
) -> Bisection:
    """Compare two ONNX files of one checkpoint, layer by layer.

    Args:
        reference: the FP32 file.
        candidate: the file in question.
        pictures: of any sizes, taken one at a time.
        threads: of each session's intra-op pool.
        tolerance: relative RMS error that a layer's output may have; by default that of the
            candidate's precision.
        on_picture: called after each picture.

    Raises:
        OnnxFileError: a file is unreadable, foreign, or refused by ONNX Runtime.
        InputError: the files come from different checkpoints or share no layers, the reference is
            not FP32 or not finite, or there are no pictures.
        BackendError: the onnx package is missing.
    """
    _refuse_strangers(reference.path, reference.metadata, candidate.path, candidate.metadata)
    allowed = _tolerance_of(candidate.metadata.precision) if tolerance is None else tolerance
    layers = _layers(reference, candidate, threads)
    for file in (reference, candidate):
        file.release()  # the sessions have what they need
    for picture in pictures:
        layers.add(picture.image)
        on_picture()
    if not pictures.count:
        raise InputError("no pictures to compare on", "name a folder of pictures with --images")
    return Bisection(
        _model(reference),
        _model(candidate),
        pictures.source,
        pictures.count,
        allowed,
        layers.measured(allowed),
    )


def _tolerance_of(precision: Precision) -> float:
    if precision not in TOLERANCES:
        raise InputError(f"no tolerance is known for {precision.value}", "give one")
    return TOLERANCES[precision]


def _model(file: OnnxFile) -> BisectedModel:
    return BisectedModel(str(file.path), file.digest, file.metadata.precision.value)


def _layers(reference: OnnxFile, candidate: OnnxFile, threads: int) -> _Layers:
    pairs = paired_layers(reference.model, candidate.model)
    chunks = [pairs[i : i + LAYERS_AT_ONCE] for i in range(0, len(pairs), LAYERS_AT_ONCE)]
    return _Layers(
        pairs,
        SegmentedGraph(reference.model, [[pair.tensor for pair in c] for c in chunks], threads),
        SegmentedGraph(
            with_explicit_rounding(candidate.model),
            [[pair.candidate_tensor for pair in c] for c in chunks],
            threads,
        ),
    )


def save(
    bisection: Bisection, target: Path, *, typed: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write a bisection made on this machine as JSON.

    Args:
        bisection: what was found.
        target: the file.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command bisected.

    Raises:
        ArtifactError: the place cannot be written; what was there before stays.
    """
    write_json(target, bisect_document(bisection, typed))


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


class _Layers:
    """The layers of both files while the pictures pass by."""

    def __init__(
        self, pairs: Sequence[LayerPair], reference: SegmentedGraph, candidate: SegmentedGraph
    ) -> None:
        self._pairs, self._reference, self._candidate = pairs, reference, candidate
        self._sums = [_Sums() for _ in pairs]

    def add(self, image: NDArray[np.uint8]) -> None:
        """Compute both files on a picture, uint8 [H, W, 3], and count their differences."""
        chunks = zip(
            self._reference.run(image[None]), self._candidate.run(image[None]), strict=True
        )
        outputs = (pair for both in chunks for pair in zip(*both, strict=True))
        for pair, sums, (wanted, got) in zip(self._pairs, self._sums, outputs, strict=True):
            sums.add(pair, wanted, got)

    def measured(self, tolerance: float) -> tuple[Layer, ...]:
        """Return what the sums say, in the order of computing."""
        return tuple(
            sums.layer(pair, tolerance) for pair, sums in zip(self._pairs, self._sums, strict=True)
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

    def layer(self, pair: LayerPair, tolerance: float) -> Layer:
        """Return what the sums say."""
        values = max(self.values, 1)
        scale, rms_error = math.sqrt(self.squares / values), math.sqrt(self.error_squares / values)
        relative = 0.0  # a layer that is all zeros may only stay so
        if rms_error > 0:
            relative = rms_error / scale if scale > 0 else math.inf
        return Layer(
            name=pair.name,
            operator=pair.operator,
            tensor=pair.tensor,
            shape=self.shape or (),
            scale=finite_or_none(scale),
            max_error=finite_or_none(self.max_error),
            rms_error=finite_or_none(rms_error),
            relative_error=finite_or_none(relative),
            finite=self.finite,
            beyond=not self.finite or relative > tolerance,
        )
