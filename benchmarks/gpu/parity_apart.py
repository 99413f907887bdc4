"""Parity between two Pythons: each saves what its runner gives, and the two files are compared.

    python parity_apart.py record  RUN DATA FOLDER JSON [--limit N]        # with PyTorch
    python parity_apart.py compare RUN BACKEND PRECISION DATA FOLDER JSON  # with TensorRT
    python parity_apart.py compare … --masks-only                          # the first evidence

`record` saves what the float32 PyTorch network (the runner has TF32 switched off) gives as
FOLDER/reference.json, and compares its float16 with that; `compare` saves what a backend gives for
a moment and compares the two.  So an engine of TensorRT 8.6 (Python 3.10, without torch) meets the
same reference.

``compare --masks-only`` builds no engine whose logits are visible, which takes minutes: it asks the
backend for masks alone and writes the share of pixels whose class is the reference's, and the
largest margin (the reference's first logit minus its second) of a pixel whose class is another.
That proves less than the gate; exit code 1 where fewer pixels agree than the gate requires.  The
file is written every few pictures: one that is cut off tells of ``pixels`` in ``pictures``, of
``pictures_asked``.

By hand:

    fcn-deploy parity RUN --backend torch --save-outputs REF.json
    fcn-deploy parity RUN --backend trt --fp16 --save-outputs CAND.json
    fcn-deploy parity REF.json CAND.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.data.sources import open_dataset
from fcn_deploy.parity.candidate import Candidate, masks_and_logits
from fcn_deploy.parity.compare import compare_recordings, save
from fcn_deploy.parity.gate import gate_of
from fcn_deploy.parity.inputs import labelled_pictures
from fcn_deploy.parity.recording import read_recording
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.results.environment import result_header
from fcn_deploy.runners.base import open_runner

REFERENCE = "reference.json"
MASKS_SCHEMA = 1
#: Pictures after which the file is written anew.
WRITTEN_EVERY = 10
MASKS, BOTH = ("mask",), ("mask", "logits")
#: What `run.sh` builds its engines with; those whose logits are visible have most layers in common.
TIMINGS = Path("timings.cache")


def save_outputs(
    run: Run, backend: str, precision: Precision, data: str, target: Path, limit: int | None
) -> None:
    _build_engines(run, backend, precision, (BOTH, MASKS))
    with open_runner(run, backend, precision=precision, outputs=BOTH) as runner:
        pictures = labelled_pictures(open_dataset(data, "val"), runner.spec, limit)
        candidate = Candidate(runner, lambda: open_runner(run, backend, precision=precision))
        print(f"{target}: {record(candidate, pictures, target):,.0f} MiB")


def _build_engines(
    run: Run, backend: str, precision: Precision, wanted: Sequence[tuple[str, ...]]
) -> None:
    if backend != "trt":
        return
    from fcn_deploy.tensorrt.api import choose_product, load
    from fcn_deploy.tensorrt.build_missing import ensure_engine

    timings = TIMINGS if load(choose_product("auto")).has_timing_cache else None
    for outputs in wanted:
        ensure_engine(run, precision, outputs=outputs, timing_cache=timings, say=print)


def compare_masks(
    run: Run, backend: str, precision: Precision, reference_file: Path, target: Path,
    limit: int | None,
) -> bool:  # fmt: skip
    """Write how many pixels get the reference's class; return whether the gate's share does."""
    reference = read_recording(reference_file)
    _build_engines(run, backend, precision, (MASKS,))
    pixels, flips, widest, by_picture = 0, 0, 0.0, []
    with open_runner(run, backend, precision=precision) as runner, reference.runner() as recorded:
        if runner.describe().checkpoint_digest != reference.description.checkpoint_digest:
            raise InputError(
                f"{reference_file} stems from another checkpoint", "export again and record it anew"
            )
        pictures = reference.pictures()
        asked = min(pictures.count, limit or pictures.count)
        for index in range(asked):
            picture = pictures.picture(index)
            expected, logits = masks_and_logits(recorded, picture.image[None])
            differs = runner.run(picture.image[None]).mask != expected
            if differs.any():
                widest = max(widest, float(margin_of(logits)[differs].max()))
            pixels, flips = pixels + differs.size, flips + int(differs.sum())
            by_picture.append({"name": picture.name, "flips": int(differs.sum())})
            if (index + 1) % WRITTEN_EVERY and index + 1 < asked:
                continue
            required = gate_of(runner.describe()).min_agreement
            document = {
                **result_header("masks", MASKS_SCHEMA),
                "reference": reference.description.to_json(),
                "runner": runner.describe().to_json(),
                "source": reference.source,
                "pixels": pixels,
                "flips": flips,
                "agreement": 1 - flips / pixels,
                "required": required,
                "widest_flip_margin": widest,
                "pictures": by_picture,
                "pictures_asked": asked,
            }
            write_json(target, document)
    print(
        f"{backend} {precision.value}: {document['agreement']:.4%} of {pixels:,} pixels agree "
        f"({flips} do not, the widest margin among them {widest:.3g}); required {required:.2%}"
    )
    return 1 - flips / pixels >= required


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


def main(arguments: Sequence[str] | None = None) -> None:
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
    comparer.add_argument("--masks-only", action="store_true")
    asked = parser.parse_args(arguments)
    run, reference = Run.from_argument(asked.run), asked.folder / REFERENCE
    if asked.command == "record":
        save_outputs(run, "torch", Precision.FP32, asked.data, reference, asked.limit)
        judge(run, "torch", Precision.FP16, asked.data, reference, asked.json, asked.limit)
        return
    backend, precision = asked.backend, asked.precision
    if asked.masks_only:
        passed = compare_masks(run, backend, precision, reference, asked.json, asked.limit)
    else:
        passed = judge(run, backend, precision, asked.data, reference, asked.json, asked.limit)
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
