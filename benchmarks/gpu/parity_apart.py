"""Parity between two Pythons: each saves what its runner gives, and the two files are compared.

    python parity_apart.py record  RUN DATA FOLDER JSON [--limit N]        # with PyTorch
    python parity_apart.py compare RUN BACKEND PRECISION DATA FOLDER JSON  # with TensorRT

`record` saves what the float32 PyTorch network (the runner has TF32 switched off) gives as
FOLDER/reference.json, and compares its float16 with that; `compare` saves what a backend gives for
a moment and compares the two.  So an engine of TensorRT 8.6 (Python 3.10, without torch) meets the
same reference.  By hand:

    fcn-deploy parity RUN --backend torch --save-outputs REF.json
    fcn-deploy parity RUN --backend trt --fp16 --save-outputs CAND.json
    fcn-deploy parity REF.json CAND.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.parity.candidate import Candidate
from fcn_deploy.parity.compare import compare_recordings, save
from fcn_deploy.parity.inputs import labelled_pictures
from fcn_deploy.parity.recording import read_recording
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.runners.base import open_runner

REFERENCE = "reference.json"
BOTH = ("mask", "logits")
#: What `run.sh` builds its engines with; those whose logits are visible have most layers in common.
TIMINGS = Path("timings.cache")


def save_outputs(
    run: Run, backend: str, precision: Precision, data: str, target: Path, limit: int | None
) -> None:
    if backend == "trt":
        from fcn_deploy.tensorrt.api import choose_product, load
        from fcn_deploy.tensorrt.build_missing import ensure_engine

        timings = TIMINGS if load(choose_product("auto")).has_timing_cache else None
        for outputs in (BOTH, ("mask",)):
            ensure_engine(run, precision, outputs=outputs, timing_cache=timings, say=print)
    with open_runner(run, backend, precision=precision, outputs=BOTH) as runner:
        pictures = labelled_pictures(open_dataset(data, "val"), runner.spec, limit)
        candidate = Candidate(runner, lambda: open_runner(run, backend, precision=precision))
        print(f"{target}: {record(candidate, pictures, target):,.0f} MiB")


def judge(
    run: Run, backend: str, precision: Precision, data: str, reference_file: Path, target: Path,
    limit: int | None,
) -> bool:  # fmt: skip
    reference = read_recording(reference_file)
    with tempfile.TemporaryDirectory() as folder:  # gigabytes of logits
        answers = Path(folder) / "candidate.json"
        save_outputs(run, backend, precision, data, answers, limit)
        candidate = read_recording(answers)
        result = compare_recordings(reference, candidate)
        save([result], target, recordings=(reference, candidate))
    print(f"{backend} {precision.value}: {'passed' if result.passed else 'FAILED'}")
    for sentence in result.diagnosis:
        print(f"  {sentence}")
    return result.passed


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
        command.add_argument("json", type=Path)
        command.add_argument("--limit", type=int)
    asked = parser.parse_args()
    run, reference = Run.from_argument(asked.run), asked.folder / REFERENCE
    if asked.command == "record":
        save_outputs(run, "torch", Precision.FP32, asked.data, reference, asked.limit)
        judge(run, "torch", Precision.FP16, asked.data, reference, asked.json, asked.limit)
    elif not judge(
        run, asked.backend, asked.precision, asked.data, reference, asked.json, asked.limit
    ):
        sys.exit(1)


if __name__ == "__main__":
    main()
