"""What a tournament of the classes costs beside an argmax, by the runtime that computes it.

    python benchmarks/tails.py JSON [--repeats 11]

Exports one network of random weights, fcn32s-resnet18 with 21 classes, with either tail, and

    runtimes   times both files in ONNX Runtime, OpenVINO and ncnn, one picture of 320×480 at a
               time, from host memory; the two take turns, each going first every other time
    builders   lets TensorRT for RTX build both, which takes no GPU, and keeps the names of the
               layers behind the tail's matrix product, in FP32 and in FP16

What is missing on a machine is left out.  Masks are compared before anything is timed.  In JSON,
kind "tails", schema 1:

    network, shape [N, H, W], threads, repeats
    runtimes [backend, library, ms {tail: [of each repeat]}, times {median, low, high, interval}]
    builders [library, precision, layers {tail: number of all}, behind_product {tail: [name]}]

``times`` is the tournament's time over the argmax's, repeat by repeat.
"""

from __future__ import annotations

import argparse
import logging
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, Product, SizeRange, Tail
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.ratio import paired_ratio
from fcn_deploy.runners.base import Runner, open_runner
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.build import engine_from_onnx

TAILS, TAILS_SCHEMA = "tails", 1
FORMS = (Tail.EARLY_ARGMAX, Tail.TOURNAMENT)
BACKENDS = ("ort", "openvino", "ncnn")
ARCHITECTURE, CLASSES, SHAPE = "fcn32s-resnet18", 21, (1, 320, 480)
#: Pictures of one repeat, after so many that are not timed.
PICTURES, WARM_UP = 5, 2


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a tournament of the classes costs.")
    parser.add_argument("json", type=Path)
    parser.add_argument("--repeats", type=int, default=11)
    asked = parser.parse_args(arguments)
    threads = usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        files = exported(Path(folder))
        document = {
            **Environment.current().to_json(TAILS, TAILS_SCHEMA),
            "network": f"{ARCHITECTURE}, {CLASSES} classes, random weights",
            "shape": list(SHAPE),
            "threads": threads,
            "repeats": asked.repeats,
            "runtimes": timed(files[Precision.FP32], threads, asked.repeats),
            "builders": [
                built for precision in files if (built := listed(files[precision], precision))
            ],
        }
    write_json(asked.json, document)


def exported(folder: Path) -> dict[Precision, dict[Tail, Path]]:
    """Write the network with either tail in either precision."""
    import torch

    from fcn_deploy.export.exporter import onnx_from_checkpoint
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    torch.manual_seed(0)
    network = build_model(ARCHITECTURE, CLASSES).eval()
    spec = ModelSpec(
        architecture=ARCHITECTURE,
        class_names=tuple(f"class {index}" for index in range(CLASSES)),
        palette=voc_palette(CLASSES),
        image_sizes=SizeRange(*[SHAPE[1:]] * 3),
    )
    checkpoint = folder / "model.safetensors"
    save_checkpoint(checkpoint, network, spec)
    files: dict[Precision, dict[Tail, Path]] = {}
    for precision in (Precision.FP32, Precision.FP16):
        files[precision] = {}
        for tail in FORMS:
            path = folder / f"{tail.value}.{precision.value}.onnx"
            # Masks are compared below; of random weights half keeps too little for a check.
            onnx_from_checkpoint(checkpoint, path, precision=precision, tail=tail, checked=False)
            files[precision][tail] = path
    return files


def timed(files: dict[Tail, Path], threads: int, repeats: int) -> list[dict[str, Any]]:
    """Time both files in every runtime that is there."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*SHAPE, 3), dtype=np.uint8) for _ in range(PICTURES)]
    rows = []
    for backend in BACKENDS:
        runners: dict[Tail, Runner] = {}
        try:
            for tail, path in files.items():
                run = Run.from_argument(path)
                runners[tail] = open_runner(run, backend, threads=threads, device="cpu")
            rows.append(row(backend, runners, images, repeats))
        except FcnDeployError as error:
            print(f"{backend}: left out: {error}")
        finally:
            for runner in runners.values():
                runner.close()
    return rows


def row(
    backend: str, runners: dict[Tail, Runner], images: Sequence[NDArray[np.uint8]], repeats: int
) -> dict[str, Any]:
    for image in images:
        masks = [runner.run(image).mask for runner in runners.values()]
        if not all(np.array_equal(masks[0], mask) for mask in masks[1:]):
            raise FcnDeployError(f"{backend}: the two tails give different masks")
    times: dict[Tail, list[float]] = {tail: [] for tail in runners}
    for repeat in range(repeats):
        for tail in (FORMS, FORMS[::-1])[repeat % 2]:
            times[tail].append(ms_per_picture(runners[tail], images))
    argmax, tournament = (times[tail] for tail in FORMS)
    ratio = paired_ratio([slow / fast for fast, slow in zip(argmax, tournament, strict=True)])
    described = runners[FORMS[0]].describe()
    print(
        f"{backend}: argmax {statistics.median(argmax):.1f} ms, "
        f"tournament {statistics.median(tournament):.1f} ms, {ratio.median:.3f} times "
        f"[{ratio.shown[0]:.3f} to {ratio.shown[1]:.3f}]"
    )
    return {
        "backend": backend,
        "library": described.library,
        "ms": {tail.value: figures for tail, figures in times.items()},
        "times": ratio.to_json(),
    }


def ms_per_picture(runner: Runner, images: Sequence[NDArray[np.uint8]]) -> float:
    for image in images[:WARM_UP]:
        runner.run(image)
    started = time.perf_counter()
    for image in images:
        runner.run(image)
    return 1e3 * (time.perf_counter() - started) / len(images)


def listed(files: dict[Tail, Path], precision: Precision) -> dict[str, Any] | None:
    """Return the layers that TensorRT for RTX makes of either file; None where it is missing."""
    if (reason := api.unavailable_reason(Product.RTX)) is not None:
        print(f"trt-rtx: left out: {reason}")
        return None
    logging.getLogger("fcn_deploy.tensorrt").setLevel(logging.ERROR)
    layers: dict[str, list[str]] = {}
    for tail, path in files.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            callbacks.logged_messages("Layers:") as listings,
        ):
            engine_from_onnx(OnnxFile(path), name="tails", product=Product.RTX, folder=Path(folder))
        layers[tail.value] = [
            found[1] for text in listings for found in re.finditer(r"^Name: ([^,]*),", text, re.M)
        ]
    behind = {form: behind_product(names) for form, names in layers.items()}
    for form, names in behind.items():
        print(f"trt-rtx {precision.value} {form}: {len(names)} layers: {', '.join(names)}")
    return {
        "library": f"TensorRT for RTX {api.installed_version(Product.RTX)}",
        "precision": precision.value,
        "layers": {form: len(names) for form, names in layers.items()},
        "behind_product": behind,
    }


def behind_product(layers: Sequence[str]) -> list[str]:
    """Return the layers that follow the tail's matrix product."""
    (product,) = (place for place, name in enumerate(layers) if name.startswith("tail.MatMul"))
    return list(layers[product + 1 :])


if __name__ == "__main__":
    main()
