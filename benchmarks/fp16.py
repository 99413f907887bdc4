"""How far FP16 files are from their FP32 file, with every tensor rounded to half as a GPU does.

    python benchmarks/fp16.py JSON FP32.onnx PICTURES NAME=FP16.onnx … [--mean-steps 0 …]

For each FP16 file, over the pictures of a folder: the largest and the root mean square difference
of logits (the largest is what `parity` calls ε), and the pixels whose class is another one.  In
JSON, kind "fp16", schema 1:

    reference {file, digest}, pictures, pixels, largest_logit
    files [name, digest, max_error, rms_error, flips, widest_flip | null]

``--mean-steps N`` adds what `export --fp16` would give if the mean had N steps in a grey level,
made here of the FP32 file: 8 is what it writes, 1 a whole mean, and 0 leaves the mean as it is.

``widest_flip`` is the largest margin, in the FP32 file, of a pixel whose class changed.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fcn_deploy.core.files import write_json
from fcn_deploy.data.images import find_images, read_image
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.fp16 import in_half
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.graph.whole_mean import with_whole_mean
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.environment import Environment

FP16, FP16_SCHEMA = "fp16", 1


@dataclass
class Difference:
    """What is added up of one file while the pictures pass by."""

    max_error: float = 0.0
    squares: float = 0.0
    values: int = 0
    flips: int = 0
    widest_flip: float | None = None

    def add(self, exact: NDArray[np.float32], given: NDArray[np.float32]) -> None:
        error = np.abs(given - exact)
        self.max_error = max(self.max_error, float(error.max()))
        self.squares += float(np.square(error, dtype=np.float64).sum())
        self.values += error.size
        flipped = exact.argmax(axis=1) != given.argmax(axis=1)
        self.flips += int(flipped.sum())
        if flipped.any():
            widest = float(margin_of(exact)[flipped].max())
            self.widest_flip = max(widest, self.widest_flip or 0.0)

    def to_json(self) -> dict[str, Any]:
        return {
            "max_error": self.max_error,
            "rms_error": math.sqrt(self.squares / self.values),
            "flips": self.flips,
            "widest_flip": self.widest_flip,
        }


def one_pass(model: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """Return an FP32 file's graph in half, with a mean of so many steps; 0: as it is."""
    return in_half(with_whole_mean(model, steps=steps) if steps else model)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How far FP16 files are from their FP32 file.")
    parser.add_argument("json", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("files", nargs="*", metavar="NAME=FILE")
    parser.add_argument("--mean-steps", type=int, action="append", default=[], metavar="N")
    asked = parser.parse_args(arguments)
    reference = OnnxFile(asked.reference)
    models, digests = {"": reference.model}, dict[str, str]()
    for name, _, path in (text.partition("=") for text in asked.files):
        file = OnnxFile(Path(path))
        models[name], digests[name] = file.model, file.digest
    for steps in asked.mean_steps:
        name = f"one pass, {steps} steps in a grey level" if steps else "one pass"
        models[name] = one_pass(reference.model, steps)
        content = models[name].SerializeToString(deterministic=True)
        digests[name] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    sessions = {
        name: cpu_session(
            with_explicit_rounding(with_logits(model)).SerializeToString(), usable_cores()
        )
        for name, model in models.items()
    }
    differences = {name: Difference() for name in digests}
    pictures = find_images([asked.pictures])
    pixels, largest = 0, 0.0
    for path in pictures:
        image = {"image": read_image(path)[None]}
        (exact,) = sessions[""].run(["logits"], image)
        pixels += exact[:, 0].size
        largest = max(largest, float(np.abs(exact).max()))
        for name, difference in differences.items():
            difference.add(exact, sessions[name].run(["logits"], image)[0])
    rows = [
        {"name": name, "digest": digests[name], **difference.to_json()}
        for name, difference in differences.items()
    ]
    for row in rows:
        print(row)
    document = {
        **Environment.current().to_json(FP16, FP16_SCHEMA),
        "reference": {"file": asked.reference.name, "digest": reference.digest},
        "pictures": len(pictures),
        "pixels": pixels,
        "largest_logit": largest,
        "files": rows,
    }
    write_json(asked.json, document)


if __name__ == "__main__":
    main()
