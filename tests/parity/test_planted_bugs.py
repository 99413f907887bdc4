"""Planted bugs in a real network: the gate fails, and says what the failure looks like."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcn_deploy.core.spec import Precision
from fcn_deploy.networks.upsampling import bilinear_kernel
from fcn_deploy.parity.compare import compare, compare_recordings, save
from fcn_deploy.parity.recording import read_recording
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.parity_parts import Gate
from tests import small_network
from tests.candidates import as_candidate
from tests.small_network import SMALL_SPEC, SmallNetwork, SmallRunner, scene_pictures

Logits = NDArray[np.float32]
Mask = NDArray[np.uint8]
DISC, RING, BOX = 1, 2, 3
NAMES = SMALL_SPEC.class_names
network = small_network.network  # a fixture


def reordered(*order: int) -> Callable[[Logits], Logits]:
    """Exchange the first channels of the logits."""
    return lambda logits: np.concatenate([logits[:, order], logits[:, len(order) :]], axis=1)


def deconvolution(kernel_size: int, padding: int) -> nn.Module:
    """Return the network's bilinear upsampling by 4 with another kernel or padding.

    The middle of an odd kernel is a pixel, that of an even one lies between two.
    """
    kernel = bilinear_kernel(len(NAMES), len(NAMES), kernel_size)
    layer = nn.ConvTranspose2d(
        len(NAMES),
        len(NAMES),
        kernel_size,
        stride=4,
        padding=padding,
        output_padding=max(0, 4 + 2 * padding - kernel_size),  # so that the size is enough
        bias=False,
    )
    layer.weight = nn.Parameter(kernel, requires_grad=False)
    return layer


class AsymmetricResize(nn.Module):
    """Bilinear upsampling by 4 that reads at x / 4, not at (x + 1/2) / 4 - 1/2.

    ONNX calls this coordinate mode ``asymmetric``, and the right one ``half_pixel``.
    """

    def forward(self, scores: Tensor) -> Tensor:
        height, width = scores.shape[2:]
        rows, columns = torch.arange(4 * height) / 4, torch.arange(4 * width) / 4
        grid = torch.stack(
            torch.meshgrid(
                2 * (columns + 0.5) / width - 1, 2 * (rows + 0.5) / height - 1, indexing="xy"
            ),
            dim=-1,
        )
        grid = grid.expand(len(scores), -1, -1, -1)
        return nn.functional.grid_sample(scores, grid, padding_mode="border", align_corners=False)


def first_pixel(value: float) -> Callable[[Logits], Logits]:
    def poison(logits: Logits) -> Logits:
        poisoned = logits.copy()
        poisoned[:, 0, 0, 0] = value
        return poisoned

    return poison


def first_mask_for_all(mask: Mask) -> Mask:
    return np.repeat(mask[:1], len(mask), axis=0)


def mixed_with_the_next(mask: Mask) -> Mask:
    halved = mask.copy()
    if len(mask) > 1:
        halved[:, ::2] = np.roll(mask, 1, axis=0)[:, ::2]
    return halved


@dataclass(frozen=True)
class Bug:
    change: dict[str, Any]
    said: str
    failed: str = "logit error"


HALF_SPEC = replace(SMALL_SPEC, mean=(0.5,) * 3, std=(0.5,) * 3)
BY_256 = "the candidate divides pixels by 256 instead of 255"
OFF_BY_ONE = "a crop or a padding is off by one"
ALIGNED_OTHERWISE = "a resize or a transposed convolution is aligned otherwise"
NOT_IN_LOGITS = "though not in the logits: look at what comes after them"
NOT_FINITE = (
    "the candidate's logits are NaN or infinite in 8 of 8 pictures: "
    "run `fcn-deploy parity --bisect` to find the layer"
)
LOOK_AT_BATCH = "look for a layer that folds the batch axis, or takes statistics over it"
BUGS = {
    "BGR": Bug(
        {"see": lambda images: images[..., ::-1]},
        "the candidate matches the reference on pictures with red and blue exchanged: it reads BGR",
    ),
    "neither mean nor std": Bug(
        {"mean": (0.0,) * 3, "std": (1.0,) * 3},
        "the candidate scales pixels to [0, 1] and applies neither mean nor std",
    ),
    "[-1, 1]": Bug(
        {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        "the candidate scales pixels to [-1, 1] instead of applying mean and std",
    ),
    "no std": Bug({"std": (1.0,) * 3}, "the candidate subtracts mean but does not divide by std"),
    "256 for 255": Bug({"divisor": 256}, BY_256),
    "statistics of BGR": Bug(
        {"mean": SMALL_SPEC.mean[::-1], "std": SMALL_SPEC.std[::-1]},
        "the candidate applies mean and std in the order of BGR to pixels in that of RGB",
    ),
    "another spec": Bug(
        {"mean": (0.5,) * 3, "std": (0.5,) * 3, "file_spec": HALF_SPEC},
        "the candidate's file says mean (0.500, 0.500, 0.500) and std (0.500, 0.500, 0.500), the "
        "reference's mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225): export it again",
    ),
    "crop one row late": Bug({"crop": (1, 0)}, f"the candidate's masks lie 1 px up: {OFF_BY_ONE}"),
    "crop one column late": Bug(
        {"crop": (0, 1)}, f"the candidate's masks lie 1 px to the left: {OFF_BY_ONE}"
    ),
    "crop off on both axes": Bug(
        {"crop": (1, 1)}, f"the candidate's masks lie 1 px up and 1 px to the left: {OFF_BY_ONE}"
    ),
    "a kernel of 7 for one of 8": Bug(
        {"upsample": deconvolution(7, padding=1)},
        f"the candidate's masks lie half a pixel down and half a pixel to the right: "
        f"{ALIGNED_OTHERWISE}",
    ),
    "the same, padded by one more": Bug(
        {"upsample": deconvolution(7, padding=2)},
        f"the candidate's masks lie half a pixel up and half a pixel to the left: "
        f"{ALIGNED_OTHERWISE}",
    ),
    "a deconvolution padded by one less": Bug(
        {"upsample": deconvolution(8, padding=1)},
        f"the candidate's masks lie 1 px down and 1 px to the right: {OFF_BY_ONE}",
    ),
    "a resize in another coordinate mode": Bug(
        {"upsample": AsymmetricResize()},
        f"the candidate's masks lie 1.5 px up and 1.5 px to the left: {ALIGNED_OTHERWISE}",
    ),
    "two classes exchanged": Bug(
        {"bug": reordered(0, RING, DISC)}, f"classes {NAMES[DISC]} and {NAMES[RING]} are exchanged"
    ),
    "three classes permuted": Bug(
        {"bug": reordered(0, RING, BOX, DISC)},
        f"classes are permuted: the candidate's {NAMES[1]} is the reference's {NAMES[2]}, "
        f"{NAMES[2]} is the reference's {NAMES[3]}, {NAMES[3]} is the reference's {NAMES[1]}",
    ),
    "classes exchanged in the mask": Bug(
        {"mask_bug": lambda mask: np.array([0, RING, DISC, 3, 4, 5, 6, 7], np.uint8)[mask]},
        f"classes {NAMES[DISC]} and {NAMES[RING]} are exchanged in the masks, {NOT_IN_LOGITS}",
        "decided pixels",
    ),
    "mask off by one": Bug(
        {"mask_bug": lambda mask: np.roll(mask, 1, axis=2)},
        f"the candidate's masks lie 1 px to the right, {NOT_IN_LOGITS}",
        "decided pixels",
    ),
    "one picture's mask for all": Bug(
        {"mask_bug": first_mask_for_all},
        f"place 1 gets the mask of place 0, place 2 gets the mask of place 0: {LOOK_AT_BATCH}",
        "place in batch",
    ),
    "neighbours mixed": Bug(
        {"mask_bug": mixed_with_the_next}, f"of 3 pictures); {LOOK_AT_BATCH}", "place in batch"
    ),
    "NaN": Bug({"bug": first_pixel(np.nan)}, NOT_FINITE, "finite logits"),
    "infinity": Bug({"bug": first_pixel(np.inf)}, NOT_FINITE, "finite logits"),
    "other weights": Bug(
        {"bug": lambda logits: logits * np.float32(1.5)},
        "the allowance in the interior of regions too, and neither exchanged channels, a shift "
        "nor exchanged classes explain it: look at mean and std, or the weights",
    ),
}


def compared(reference: SmallRunner, candidate: SmallRunner) -> Comparison:
    (comparison,) = compare(reference, [as_candidate(candidate)], scene_pictures())
    return comparison


def document_of(result: Comparison, folder: Path) -> dict[str, Any]:
    save([result], folder / "result.json")
    (content,) = json.loads((folder / "result.json").read_text())["results"]
    return content  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_fails_the_gate_and_is_named(
    name: str, network: SmallNetwork, tmp_path: Path
) -> None:
    bug = BUGS[name]
    candidate = SmallRunner(network, **bug.change)
    result = compared(SmallRunner(network), candidate)
    content = document_of(result, tmp_path)
    assert not content["passed"]
    assert bug.failed in {check["name"] for check in content["checks"] if not check["passed"]}
    assert len(content["diagnosis"]) == 1
    # Where the figures in a sentence belong to the network, its end is what is pinned down.
    assert content["diagnosis"][0].endswith(bug.said)


@pytest.mark.parametrize(
    ("changes", "precision", "tolerance"),
    [
        ((0.06, 0, -0.05), Precision.FP32, 0.03),
        ((0.002,) * 3, Precision.FP32, 0.0011),  # half a grey level
        ((0.002,) * 3, Precision.BF16, 0.0011),
    ],
)
def test_a_slightly_other_mean_is_fitted(
    changes: tuple[float, ...], precision: Precision, tolerance: float, network: SmallNetwork
) -> None:
    mean = tuple(map(sum, zip(SMALL_SPEC.mean, changes, strict=True)))
    candidate = SmallRunner(network, mean=mean, precision=precision)
    (sentence,) = compared(SmallRunner(network), candidate).diagnosis
    assert sentence.startswith("the candidate's mean and std are others than the reference's")
    fitted = sentence.partition("with mean (")[2].partition(")")[0]
    np.testing.assert_allclose([float(f) for f in fitted.split(",")], mean, atol=tolerance)


LOGIT_BUGS = (
    "BGR", "[-1, 1]", "crop one column late", "a kernel of 7 for one of 8", "two classes exchanged",
)  # fmt: skip


@pytest.mark.parametrize("name", LOGIT_BUGS)
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.INT8])
def test_a_bug_is_named_beside_rounding_too(
    precision: Precision, name: str, network: SmallNetwork
) -> None:
    candidate = SmallRunner(network, precision=precision, **BUGS[name].change)
    result = compared(SmallRunner(network), candidate)
    assert result.diagnosis == (BUGS[name].said,)
    assert [c.sentence for c in result.checks if c.name == "only rounding"] == [BUGS[name].said]


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_pixels_divided_by_256_are_told_from_rounding(
    precision: Precision, network: SmallNetwork
) -> None:
    candidate = SmallRunner(network, precision=precision, divisor=256)
    result = compared(SmallRunner(network), candidate)
    # The limits alone would let it pass, or have it called rounding.
    assert result.epsilon is not None
    assert result.epsilon / result.logit_scale < result.gate.max_relative_epsilon
    assert "only rounding" in {check.name for check in result.checks if not check.passed}
    assert result.diagnosis == (BY_256,)


@pytest.mark.parametrize("precision", list(Precision))
def test_an_honest_candidate_passes_without_a_diagnosis(
    precision: Precision, network: SmallNetwork, tmp_path: Path
) -> None:
    result = compared(SmallRunner(network), SmallRunner(network, precision=precision))
    content = document_of(result, tmp_path)
    assert content["passed"], content["checks"]
    assert content["diagnosis"] == []
    # It rounds as its precision does, and flips pixels by it.
    assert (content["flips"] > 0) is (precision is not Precision.FP32)


def test_a_class_that_is_lost_is_named(network: SmallNetwork) -> None:
    candidate = SmallRunner(
        network, mask_bug=lambda mask: np.where(mask == DISC, 0, mask).astype(np.uint8)
    )
    (sentence,) = compared(SmallRunner(network), candidate).diagnosis
    assert sentence.startswith(f"the candidate never gives class {NAMES[DISC]}, which")
    assert sentence.endswith(f"most of them are {NAMES[0]} instead")


@pytest.mark.parametrize("coarse", [False, True])
def test_rounding_alone_is_called_rounding(coarse: bool, network: SmallNetwork) -> None:
    candidate = SmallRunner(network, precision=Precision.FP16)
    gate = Gate(1.0, 1e-2, 0.9, 1e-3, coarse=coarse)
    (result,) = compare(
        SmallRunner(network), [as_candidate(candidate)], scene_pictures(), gate=gate
    )
    assert [check.name for check in result.checks if not check.passed] == ["all pixels"]
    (sentence,) = result.diagnosis
    assert sentence.startswith("errors are small (ε = ")
    assert sentence.endswith("rounding, where the network is close to a tie")


@pytest.mark.parametrize(
    "name",
    ["crop off on both axes", "a kernel of 7 for one of 8", "two classes exchanged", "BGR", "NaN"],
)
def test_recordings_are_diagnosed_as_far_as_they_can_be(
    name: str, network: SmallNetwork, tmp_path: Path
) -> None:
    bug = BUGS[name]
    recordings = []
    for number, runner in enumerate((SmallRunner(network), SmallRunner(network, **bug.change))):
        record(as_candidate(runner), scene_pictures(), tmp_path / f"{number}.json")
        recordings.append(read_recording(tmp_path / f"{number}.json"))
    result = compare_recordings(*recordings)
    assert not result.passed
    (sentence,) = result.diagnosis
    if name == "BGR":  # the reference cannot be asked again
        assert "neither a shift nor exchanged classes explain it" in sentence
        assert sentence.endswith("(saved outputs cannot tell whether channels are exchanged)")
    else:
        assert sentence == bug.said
