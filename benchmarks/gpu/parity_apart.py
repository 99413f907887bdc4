"""Parity between two Pythons: the reference's answers are saved by one and read by the other.

    python parity_apart.py record  RUN DATA FOLDER [--limit N]             # with PyTorch
    python parity_apart.py compare RUN BACKEND PRECISION DATA FOLDER JSON  # with TensorRT

`record` asks the float32 PyTorch network (the runner has TF32 switched off) about everything that
the gate will ask and writes a file per question; `compare` runs the gate against them.  So an
engine of TensorRT 8.6 (Python 3.10, without torch) meets the same reference.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.artifacts import Run, read_json, write_json
from fcn_deploy.dataset import open_dataset
from fcn_deploy.errors import MissingStageError
from fcn_deploy.parity import Pictures, compare, labelled_pictures, save
from fcn_deploy.runners.base import Outputs, Runner, RunnerDescription, open_runner
from fcn_deploy.spec import ModelSpec, Precision

DESCRIPTION = "reference.json"
BOTH = ("mask", "logits")


def question(images: NDArray[np.uint8]) -> str:
    """Name a batch by its shape and pixels."""
    pixels = hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
    return f"{'x'.join(map(str, images.shape[:3]))}-{pixels[:32]}.npz"


class RecordingRunner(Runner):
    """A reference that saves every answer it gives."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self._runner, self._folder = runner, folder
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "description": runner.describe().to_json(),
            "spec": runner.spec.to_json(),
        }
        write_json(folder / DESCRIPTION, content)

    @property
    def spec(self) -> ModelSpec:
        return self._runner.spec

    def describe(self) -> RunnerDescription:
        return self._runner.describe()

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        found = self._runner.run(images)
        assert found.logits is not None
        np.savez(self._folder / question(images), mask=found.mask, logits=found.logits)
        return found

    def close(self) -> None:
        self._runner.close()


class SavedRunner(Runner):
    """A reference that answers from what was saved, and only that."""

    def __init__(self, folder: Path) -> None:
        content = read_json(folder / DESCRIPTION, "run `parity_apart.py record` first")
        self._folder = folder
        self._spec = ModelSpec.from_json(content["spec"])
        fields = content["description"]
        self._description = RunnerDescription(**{**fields, "providers": tuple(fields["providers"])})

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def describe(self) -> RunnerDescription:
        return self._description

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        path = self._folder / question(images)
        if not path.is_file():
            raise MissingStageError(
                f"the reference was never asked about {path.name}",
                "record again with the same data and the same version of fcn-deploy",
            )
        with np.load(path) as answer:
            return Outputs(answer["mask"], answer["logits"])

    def close(self) -> None:
        pass


def pictures(data: str, spec: ModelSpec, limit: int | None) -> Pictures:
    return labelled_pictures(open_dataset(data, "val"), spec, limit)


def record(run: Run, data: str, folder: Path, limit: int | None) -> None:
    with (
        RecordingRunner(open_runner(run, "torch", outputs=BOTH), folder) as reference,
        open_runner(run, "torch", precision=Precision.FP16, outputs=BOTH) as candidate,
    ):
        result = compare(reference, candidate, pictures(data, reference.spec, limit))
    save([result], folder.parent / "parity-torch-fp16.json")
    print(f"torch fp16: {'passed' if result.passed else 'FAILED'}")


def judge(
    run: Run, backend: str, precision: Precision, data: str, folder: Path, target: Path,
    limit: int | None,
) -> bool:  # fmt: skip
    if backend == "trt":
        from fcn_deploy.build import ensure_engine

        ensure_engine(run, precision, outputs=BOTH, say=print)
    with (
        SavedRunner(folder) as reference,
        open_runner(run, backend, precision=precision, outputs=BOTH) as candidate,
    ):
        result = compare(reference, candidate, pictures(data, reference.spec, limit))
    save([result], target)
    print(f"{backend} {precision.value}: {'passed' if result.passed else 'FAILED'}")
    return bool(result.passed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record")
    comparer = commands.add_parser("compare")
    for command in (recorder, comparer):
        command.add_argument("run")
        if command is comparer:
            command.add_argument("backend")
            command.add_argument("precision", type=Precision)
        command.add_argument("data")
        command.add_argument("folder", type=Path)
        command.add_argument("--limit", type=int)
    comparer.add_argument("json", type=Path)
    asked = parser.parse_args()
    run = Run.from_argument(asked.run)
    if asked.command == "record":
        record(run, asked.data, asked.folder, asked.limit)
    elif not judge(
        run, asked.backend, asked.precision, asked.data, asked.folder, asked.json, asked.limit
    ):
        sys.exit(1)


if __name__ == "__main__":
    main()
