"""Every architecture, all the way: export, parity at odd sizes, the real TensorRT builder.

One of each kind runs in `make test`; all 38 take half an hour on two cores: `make architectures`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fcn_deploy import trt_api
from fcn_deploy.artifacts import Run
from fcn_deploy.build import BuildOptions, engine_from_onnx
from fcn_deploy.checkpoint import save_checkpoint
from fcn_deploy.engine_file import read_engine
from fcn_deploy.export import onnx_from_checkpoint
from fcn_deploy.networks import ARCHITECTURES, build_model
from fcn_deploy.parity import Picture, Pictures, compare
from fcn_deploy.runners.base import open_runner
from fcn_deploy.scenes import draw_scene
from fcn_deploy.spec import ModelSpec, Precision, Product, ShapeProfile, SizeRange

#: Each family, each kind of block, each output stride, each kind of last step.
ALWAYS = {"fcn16s-resnet18", "fcn8s-resnet18", "fcn8s-resnet34-os16", "tv-fcn-resnet50"}
everything = os.environ.get("FCN_DEPLOY_ALL_ARCHITECTURES") == "1"
CLASSES = ("sky", "road", "car", "tree")
SIZES = SizeRange((48, 64), (48, 64), (97, 131))


def trained_like(architecture: str) -> tuple[torch.nn.Module, ModelSpec]:
    """A network whose every weight counts: scores that start at zero would hide a skip."""
    torch.manual_seed(0)
    network = build_model(architecture, len(CLASSES))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("skips.") and ".score." in name:
                parameter.normal_(std=0.1)
            elif "upsample" in name:  # trained: no longer bilinear
                parameter.add_(0.02 * torch.randn_like(parameter))
    palette = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128))
    return network, ModelSpec(architecture, CLASSES, palette, SIZES)


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not everything and name not in ALWAYS, reason="`make architectures` runs it"
            ),
        )
        for name in ARCHITECTURES
    ],
)
def test_export_parity_and_builder(architecture: str, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    network, spec = trained_like(architecture)
    save_checkpoint(run.checkpoint, network, spec)
    # The export's own check compares masks at 1×1, 97×131, below the stride, and in a batch.
    written = onnx_from_checkpoint(run.checkpoint, run.onnx(Precision.FP32))
    assert written.tail.value == ("resize" if architecture.startswith("tv") else "early-argmax")

    scene, _ = draw_scene(0, 0, (80, 112))
    picture = Picture("scene", scene, None)
    outputs = ("mask", "logits")
    with (
        open_runner(run, "torch", outputs=outputs) as reference,
        open_runner(run, "ort", outputs=outputs) as candidate,
    ):
        result = compare(reference, candidate, Pictures("scenes", 1, lambda _: picture))
    assert result.passed, [check.sentence for check in result.checks if not check.passed]

    if trt_api.unavailable_reason(Product.RTX) is None:
        engine = engine_from_onnx(
            run.onnx(Precision.FP32),
            name="fcn",
            product=Product.RTX,
            folder=tmp_path / "engines",
            options=BuildOptions((ShapeProfile((1, 1, 1), (1, 48, 64), (2, 97, 131)),)),
        )
        assert read_engine(engine.path).outputs == ("mask",)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_size_goes_in_and_comes_out(architecture: str) -> None:
    # On the meta device shapes are computed and pixels are not: all of them take seconds.
    with torch.device("meta"):
        network = build_model(architecture, 5).eval()
        for height, width in [(1, 1), (31, 33), (97, 131), (320, 480)]:
            logits = network(torch.empty(2, 3, height, width))
            assert tuple(logits.shape) == (2, 5, height, width)


def test_a_family_member_begins_as_the_coarser_one() -> None:
    images = torch.randn(1, 3, 70, 90)
    for fine, coarse in (("fcn8s-resnet18", "fcn16s-resnet18"), ("fcn16s-resnet18", None)):
        torch.manual_seed(3)
        network = build_model(fine, 4).eval()
        with torch.no_grad():
            scores = network.scores(images)
            features = network.get_submodule("body")(images)
            coarsest = network.get_submodule("score")(features)
        # Bilinear steps of the scores at the body's end, and nothing else yet.
        assert scores.shape[2] == -(-70 // (8 if coarse else 16))
        means = scores.mean((2, 3)), coarsest.mean((2, 3))
        np.testing.assert_allclose(means[0], means[1], atol=0.5)
        centre = scores[0, 0, 1, 1]
        assert coarsest[0, 0].min() - 1e-5 <= centre <= coarsest[0, 0].max() + 1e-5
