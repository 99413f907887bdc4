"""What goes into a bundle: the files of a run that belong together, and what is known of them.

A file that is older than the checkpoint, or that no comparison has proven, is not carried along.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.bundle.manifest import BundledOnnx
from fcn_deploy.core.errors import InputError, MissingStageError, OnnxFileError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.graph.onnx_file import OnnxFile, require_model
from fcn_deploy.results.bench import Bench
from fcn_deploy.results.evaluation import EvaluationFile
from fcn_deploy.results.parity import ParityFile
from fcn_deploy.results.proven import newest_verdicts
from fcn_deploy.results.read import read_results
from fcn_deploy.results.results import Results
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training
from fcn_deploy.tensorrt.engine_file import EngineSidecar, read_engine, sidecar_path

#: Precisions of ONNX files, in the order in which they are named.
_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8)


@dataclass(frozen=True)
class Contents:
    """The files of a run that belong to its checkpoint.

    Attributes:
        run: the run.
        spec: of its network.
        checkpoint_digest: of its checkpoint, or of the original that it was imported from.
        onnx: its proven ONNX files.
        engines: plan → sidecar, of those that were named.
        training: None where it was not trained here.
        parity_files: of these files.
        evaluations: likewise.
        benches: likewise.
        left_out: what is not carried along, and why: sentences.
    """

    run: Run
    spec: ModelSpec
    checkpoint_digest: str
    onnx: tuple[BundledOnnx, ...]
    engines: dict[Path, EngineSidecar]
    training: Training | None
    parity_files: tuple[ParityFile, ...]
    evaluations: tuple[EvaluationFile, ...]
    benches: tuple[Bench, ...]
    left_out: tuple[str, ...]

    def files(self) -> dict[str, Path]:
        """Return name in the bundle → file of the run."""
        run = self.run
        found = {file.file: run.root / file.file for file in self.onnx}
        if run.is_foreign:
            found |= {path.name: path for path in (run.original, run.original_record)}
        for plan in self.engines:
            name = _free_name(found, f"engines/{_plain(plan.stem)}", ".plan")
            found |= {name: plan, f"{name}.json": sidecar_path(plan)}
        if self.training is not None:
            found[run.metrics.name] = run.metrics
            if run.preview.is_file():
                found[run.preview.name] = run.preview
        for results in (self.parity_files, self.evaluations, self.benches):
            for result in results:
                path = run.root / result.environment.file
                stem = f"{path.parent.name}/{_plain(path.stem)}"
                found[_free_name(found, stem, ".json")] = path
        return found


def _free_name(taken: Collection[str], stem: str, suffix: str) -> str:
    """Return a name that no other file has, in an archive that does not tell case apart."""
    others = {name.lower() for name in taken}
    while f"{stem}{suffix}".lower() in others:
        stem += "_"
    return f"{stem}{suffix}"


def _plain(stem: str) -> str:
    """Return a file's name with what an archive takes alone."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", stem).lstrip(".")[:120] or "_"


def gather(run: Run, engines: Sequence[Path] = ()) -> Contents:
    """Find the files of a run that a bundle carries.

    Args:
        run: the run.
        engines: plans to carry along.

    Raises:
        MissingStageError: it has no ONNX file, or no comparison of it has passed; the repair names
            the command.
        ArtifactError: a file is damaged.
        InputError: an engine is of another network, or a single file was named in place of a run.
    """
    if run.named_file is not None or run.bundle is not None:
        raise InputError(f"{run.named_file or run.bundle} is no run", "name a run directory")
    metadata = require_model(run, Precision.FP32).metadata
    checkpoint = metadata.checkpoint_digest
    results = _results_of(run)
    onnx, left_out = _proven(run, results)
    if run.is_foreign:
        _ = OnnxFile(run.original).model  # refused where it keeps its weights elsewhere

    def of_checkpoint(runners: Iterable[RunnerDescription]) -> bool:
        return any(runner.checkpoint_digest == checkpoint for runner in runners)

    training = results.training
    if training is not None and training.checkpoint_digest != checkpoint:
        training = None
        left_out.append(f"left out: {run.metrics} (of another checkpoint)")
    return Contents(
        run=run,
        spec=metadata.spec,
        checkpoint_digest=checkpoint,
        onnx=onnx,
        engines={plan: _engine(plan, checkpoint, onnx) for plan in engines},
        training=training,
        parity_files=tuple(
            file
            for file in results.parity_files
            if of_checkpoint(comparison.candidate for comparison in file.comparisons)
        ),
        evaluations=tuple(
            file for file in results.evaluations if of_checkpoint(row.runner for row in file.rows)
        ),
        benches=tuple(
            bench for bench in results.benches if of_checkpoint(row.runner for row in bench.rows)
        ),
        left_out=tuple(left_out),
    )


def _results_of(run: Run) -> Results:
    try:
        return read_results(run)
    except MissingStageError:  # nothing has been measured yet
        return Results(name=run.name)


def _proven(run: Run, results: Results) -> tuple[tuple[BundledOnnx, ...], list[str]]:
    """Return the ONNX files that passed the gate, and what is said of the others."""
    found, left_out = list[BundledOnnx](), list[str]()
    for precision in _PRECISIONS:
        if not run.onnx(precision).is_file():
            continue
        try:
            file = require_model(run, precision)
        except OnnxFileError as error:
            if precision is Precision.FP32:
                raise
            left_out.append(f"left out: {run.onnx(precision)} ({error.message})")
            continue
        backends = {
            comparison.candidate.backend
            for comparison in newest_verdicts(results.comparisons).values()
            if comparison.passed
            and comparison.candidate.digest == file.digest
            # Of a float32 file that was computed in bfloat16 nothing is proven but that.
            and comparison.candidate.precision == precision.value
        }
        reason = f"no comparison of {file.path} has passed"
        repair = f"run `fcn-deploy parity{run.command_suffix}{precision.flag}` first"
        if not backends and precision is Precision.FP32:
            raise MissingStageError(reason, repair)
        if not backends:
            left_out.append(f"left out: {reason}: {repair}")
            continue
        metadata = file.metadata
        found.append(
            BundledOnnx(
                file.path.name, precision, file.digest, metadata.outputs, tuple(sorted(backends))
            )
        )
        file.release()
    return tuple(found), left_out


def _engine(plan: Path, checkpoint: str, onnx: Sequence[BundledOnnx]) -> EngineSidecar:
    sidecar = read_engine(plan)
    known = {file.digest for file in onnx}
    if sidecar.checkpoint_digest != checkpoint or not known & {
        sidecar.onnx_digest,
        sidecar.source_digest,
    }:
        raise InputError(
            f"{plan} was built from none of the bundle's ONNX files",
            f"run `{sidecar.command}` again, or leave it out",
        )
    return sidecar
