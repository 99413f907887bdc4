"""Every architecture, all the way: export, masks at odd sizes, parity, the real TensorRT builder.

Tracing a network takes 5 to 15 seconds, so five that hold every part go all the way in `make
test-all`: each family, each kind of block of a ResNet, each output stride, a skip with a 2×
upsampling and one without, each kind of last step, a small body.  The other 67 go through their
shapes in `make test`, and all the way with `make architectures`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Product, ShapeProfile, Tail
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.networks.architectures import architecture_names, build_model
from fcn_deploy.networks.bodies import CUTS
from fcn_deploy.networks.checkpoint import save_checkpoint
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import Extras, Pictures, made_extras
from fcn_deploy.runners.base import Runner, open_runner, unavailable_reason
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.engine_file import read_engine
from tests.candidates import as_candidate
from tests.random_network import random_network

#: fcn32s of output stride 32 goes all the way in every other test of the package.
ALWAYS = [
    "fcn16s-resnet18",
    "fcn8s-resnet34-os16",
    "tv-fcn-resnet50",
    "fcn8s-mobilenet_v3_small",
    "fpn-mobilenet_v3_large",
]
EVERYTHING = os.environ.get("FCN_DEPLOY_ALL_ARCHITECTURES") == "1"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", architecture_names() if EVERYTHING else ALWAYS)
def test_export_masks_and_builder(architecture: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    network, spec = random_network(architecture)
    save_checkpoint(run.checkpoint, network, spec)
    onnx_from_checkpoint(run.checkpoint, run.onnx(Precision.FP32))
    tail = Tail.RESIZE if architecture.startswith(("tv-", "fpn-")) else Tail.EARLY_ARGMAX
    assert OnnxFile(run.onnx(Precision.FP32)).metadata.tail == tail.value

    with (
        open_runner(run, "torch", outputs=OUTPUT_NAMES) as reference,
        open_runner(run, "ort", outputs=("mask", "logits")) as candidate,
        others(run, architecture) as found,
    ):
        for shape in ((1, 1, 1), (1, 97, 131), (2, 33, 70)):
            for runner in (candidate, *found):
                assert_masks_are_the_same(reference, runner, shape)
        scene, _ = draw_scene(0, 0, (80, 112))
        pictures = Pictures("scenes", 1, [NamedImage("scene", scene)].__getitem__, small_extras)
        (result,) = compare(reference, [as_candidate(candidate)], pictures)
        assert result.passed, [check.sentence for check in result.checks if not check.passed]
        if unavailable_reason("openvino-int8x3") is None and "resnet" in architecture:
            with open_runner(run, "openvino-int8x3", outputs=("mask", "logits")) as split:
                (result,) = compare(reference, [as_candidate(split)], pictures)
            assert result.passed, [check.sentence for check in result.checks if not check.passed]

    if api.unavailable_reason(Product.RTX) is None:
        engine = engine_from_onnx(
            OnnxFile(run.onnx(Precision.FP32)),
            name="fcn",
            product=Product.RTX,
            folder=tmp_path / "engines",
            options=BuildOptions((ShapeProfile((1, 1, 1), (1, 48, 64), (2, 97, 131)),)),
        )
        assert read_engine(engine.path).outputs == ("mask",)


#: With these random weights one class leads nearly everywhere, and another on 150 pixels: the gate,
#: which asks that 99 % of a class's pixels keep it, then hangs on two pixels that are ties.
ONE_CLASS_LEADS = frozenset({"efficientnet_b0"})


@pytest.mark.slow
@pytest.mark.parametrize("backbone", CUTS)
def test_half_precision_of_small_bodies(backbone: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    network, spec = random_network(f"fcn8s-{backbone}")
    save_checkpoint(run.checkpoint, network, spec)
    half = run.onnx(Precision.FP16)
    onnx_from_checkpoint(run.checkpoint, half, precision=Precision.FP16)
    assert OnnxFile(half).metadata.precision is Precision.FP16
    opened = {"precision": Precision.FP16, "outputs": ("mask", "logits")}
    with (
        open_runner(run, "torch", outputs=OUTPUT_NAMES) as reference,
        open_runner(run, "ort", **opened) as candidate,
    ):
        scene, _ = draw_scene(0, 0, (80, 112))
        pictures = Pictures("scenes", 1, [NamedImage("scene", scene)].__getitem__, small_extras)
        (result,) = compare(reference, [as_candidate(candidate)], pictures)
        assert_rounded_alone(reference, candidate, scene)
    failed = [check.sentence for check in result.checks if not check.passed]
    assert not failed or backbone in ONE_CLASS_LEADS, failed


def assert_rounded_alone(reference: Runner, candidate: Runner, image: NDArray[np.uint8]) -> None:
    """Half precision moves logits by 1 % of their spread at most, and flips ties alone."""
    exact, half = reference.run(image[None]), candidate.run(image[None])
    assert exact.logits is not None
    assert exact.margin is not None
    assert half.logits is not None
    spread = exact.logits.std()
    assert np.sqrt(np.square(half.logits - exact.logits).mean()) < 0.01 * spread
    assert (exact.margin[half.mask != exact.mask] < 0.05 * spread).all()


@contextmanager
def others(run: Run, architecture: str) -> Iterator[list[Runner]]:
    """Open what computes such networks beside ONNX Runtime.

    ncnn computes 3×3 convolutions of all channels with each other, which small bodies lack.
    """
    if any(backbone in architecture for backbone in CUTS):
        with pytest.raises(OnnxFileError, match="--backend ort"):
            open_runner(run, "ncnn")
        if unavailable_reason("openvino") is None:
            with open_runner(run, "openvino", outputs=("mask", "logits")) as runner:
                yield [runner]
        else:
            yield []
        return
    with open_runner(run, "ncnn", outputs=("mask", "logits")) as runner:
        yield [runner]


def assert_masks_are_the_same(
    reference: Runner, candidate: Runner, shape: tuple[int, int, int]
) -> None:
    """The same class at every pixel, but for ties within the rounding of float32."""
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected, given = reference.run(images), candidate.run(images)
    assert expected.logits is not None
    assert expected.margin is not None
    flipped = given.mask != expected.mask
    assert (expected.margin[flipped] <= 1e-5 * np.abs(expected.logits).max()).all()
    assert flipped.mean() < 0.01


def small_extras(first: Sequence[NamedImage]) -> Extras:
    """All extras but the odd size that is a large one: a ResNet-101 would take half a minute."""
    made = made_extras(first)
    small = [picture for picture in made.odd_sizes if picture.image.size < 100_000]
    return replace(made, odd_sizes=tuple(small))


@pytest.mark.parametrize(
    "architecture",
    # A ResNet-101 has the blocks of a ResNet-50, and a ResNet-34 those of a ResNet-18.
    [
        pytest.param(name, marks=[pytest.mark.slow] * ("resnet101" in name or "resnet34" in name))
        for name in architecture_names()
    ],
)
def test_any_size_goes_in_and_comes_out(architecture: str) -> None:
    # On the meta device shapes are computed and pixels are not: all of them take seconds.
    with torch.device("meta"):
        network = build_model(architecture, 5)
        assert network.training
        network.eval()
        for height, width in [(1, 1), (31, 33), (97, 131), (320, 480)]:
            logits = network(torch.empty(2, 3, height, width))
            assert tuple(logits.shape) == (2, 5, height, width)
    parts = [name for name, _ in network.get_submodule("body").named_children()]
    assert not {"avgpool", "fc", "classifier"} & set(parts)
