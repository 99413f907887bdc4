"""What the tests of the TensorRT runner share: fake machines, a run with its engine, pictures.

Their fixtures lie here and not in a ``conftest.py``: on a target device and on a GPU these tests
run with ``--noconftest``.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, Precision, ShapeProfile
from fcn_deploy.runners.base import Outputs, open_runner
from fcn_deploy.runners.trt import TrtRunner
from fcn_deploy.tensorrt.build_options import BuildOptions
from tests import tensorrt_fixtures
from tests.fake_tensorrt import fake_mask
from tests.tensorrt_fixtures import FakeMachine, write_onnx

FP16 = Precision.FP16
latest, machine = tensorrt_fixtures.latest, tensorrt_fixtures.machine


def make_run(
    machine: FakeMachine, *profiles: ShapeProfile, outputs: tuple[str, ...] = ("mask",)
) -> Run:
    run = Run(Path("runs/city"))
    write_onnx(run.onnx(FP16), FP16, outputs)
    machine.build(
        run.onnx(FP16),
        name=run.name,
        options=BuildOptions(profiles),
        command="fcn-deploy build runs/city --fp16",
    )
    machine.trt._calls.clear()  # the builder's
    return run


def open_trt(run: Run, *outputs: str) -> TrtRunner:
    runner = open_runner(run, "trt", precision=FP16, outputs=outputs or ("mask",))
    assert isinstance(runner, TrtRunner)
    return runner


def assert_masks(runner: TrtRunner, *batches: NDArray[np.uint8]) -> None:
    """Batch by batch, the runner gives the masks of the fake network."""
    for images in batches:
        np.testing.assert_array_equal(runner.run(images).mask, fake_mask(images))


def assert_streamed(results: Iterable[Outputs], batches: Iterable[NDArray[np.uint8]]) -> None:
    """A stream gives the masks of all of its batches, in order."""
    for images, result in zip(batches, results, strict=True):
        np.testing.assert_array_equal(result.mask, fake_mask(images))


def pictures(shape: BatchShape, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def recurring_shapes(runs: int) -> Iterator[BatchShape]:
    """Shapes drawn from 20, each 3 times in a row: seen, recorded, launched, and pushed out."""
    generator = np.random.default_rng(1)
    shapes = generator.integers((1, 1, 1), (9, 65, 65), size=(20, 3))
    for index in range(runs):
        if index % 3 == 0:
            batch, height, width = generator.choice(shapes)
        yield int(batch), int(height), int(width)
