"""Planted bugs in a real network: the gate fails, and says what the failure looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fcn_deploy.parity import ParityResult, compare, compare_recordings, save
from fcn_deploy.recordings import read_recording, record
from fcn_deploy.spec import Precision
from tests.small_network import (
    SMALL_SPEC,
    SmallNetwork,
    SmallRunner,
    scene_pictures,
    trained_network,
)

Logits = NDArray[np.float32]
Mask = NDArray[np.uint8]
DISC, RING, BOX = 1, 2, 3
NAMES = SMALL_SPEC.class_names


@pytest.fixture(scope="module")
def network() -> Iterator[SmallNetwork]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other longer than such a network computes
    yield trained_network()
    torch.set_num_threads(threads)


def reordered(*order: int) -> Callable[[Logits], Logits]:
    """Exchange the first channels of the logits."""
    return lambda logits: np.concatenate([logits[:, order], logits[:, len(order) :]], axis=1)


def half_pixel(axis: int, towards: int) -> Callable[[Logits], Logits]:
    """Sample between the pixels: ``towards`` +1 moves what is seen down or right."""
    return lambda logits: ((logits + np.roll(logits, towards, axis)) / 2).astype(np.float32)


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
OFF_BY_ONE = "a crop or a padding is off by one"
ALIGNED_OTHERWISE = "a resize or a transposed convolution is aligned otherwise"
NOT_IN_LOGITS = "though not in the logits: look at what comes after them"
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
    "half a pixel right": Bug(
        {"bug": half_pixel(3, 1)},
        f"the candidate's masks lie half a pixel to the right: {ALIGNED_OTHERWISE}",
    ),
    "half a pixel up": Bug(
        {"bug": half_pixel(2, -1)},
        f"the candidate's masks lie half a pixel up: {ALIGNED_OTHERWISE}",
    ),
    "two classes exchanged": Bug(
        {"bug": reordered(0, RING, DISC)},
        f"classes {NAMES[DISC]} and {NAMES[RING]} are exchanged",
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
    "NaN": Bug(
        {"bug": first_pixel(np.nan)},
        "the candidate's logits are NaN or infinite in 6 of 6 pictures: "
        "run `fcn-deploy parity --bisect` to find the layer",
        "finite logits",
    ),
    "infinity": Bug(
        {"bug": first_pixel(np.inf)},
        "the candidate's logits are NaN or infinite in 6 of 6 pictures: "
        "run `fcn-deploy parity --bisect` to find the layer",
        "finite logits",
    ),
    "other weights": Bug(
        {"bug": lambda logits: logits * np.float32(1.5)},
        "the allowance in the interior of regions too, and neither exchanged channels, a shift "
        "nor exchanged classes explain it: look at mean and std, or the weights",
    ),
}


def document_of(result: ParityResult, folder: Path) -> dict[str, Any]:
    save([result], folder / "result.json")
    (content,) = json.loads((folder / "result.json").read_text())["results"]
    return content  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_fails_the_gate_and_is_named(
    name: str, network: SmallNetwork, tmp_path: Path
) -> None:
    bug = BUGS[name]
    candidate = SmallRunner(network, **bug.change)
    result = compare(SmallRunner(network), candidate, scene_pictures())
    content = document_of(result, tmp_path)
    assert not content["passed"]
    assert bug.failed in {check["name"] for check in content["checks"] if not check["passed"]}
    assert len(content["diagnosis"]) == 1
    # Where the figures in a sentence belong to the network, its end is what is pinned down.
    assert content["diagnosis"][0].endswith(bug.said)


def test_a_slightly_other_mean_is_fitted(network: SmallNetwork) -> None:
    red, green, blue = SMALL_SPEC.mean
    candidate = SmallRunner(network, mean=(red + 0.06, green, blue - 0.05))
    (sentence,) = compare(SmallRunner(network), candidate, scene_pictures()).diagnosis
    assert sentence.startswith("the candidate's mean and std are others than the reference's")
    fitted = sentence.partition("with mean (")[2].partition(")")[0]
    expected = (red + 0.06, green, blue - 0.05)
    np.testing.assert_allclose([float(f) for f in fitted.split(",")], expected, atol=0.03)


def test_a_bug_is_named_in_half_precision_too(network: SmallNetwork) -> None:
    candidate = SmallRunner(network, precision=Precision.FP16, crop=(0, 1))
    result = compare(SmallRunner(network), candidate, scene_pictures())
    assert result.diagnosis == (f"the candidate's masks lie 1 px to the left: {OFF_BY_ONE}",)


@pytest.mark.parametrize("precision", list(Precision))
def test_an_honest_candidate_passes_without_a_diagnosis(
    precision: Precision, network: SmallNetwork, tmp_path: Path
) -> None:
    result = compare(
        SmallRunner(network), SmallRunner(network, precision=precision), scene_pictures()
    )
    content = document_of(result, tmp_path)
    assert content["passed"], content["checks"]
    assert content["diagnosis"] == []


def test_a_class_that_is_lost_is_named(network: SmallNetwork) -> None:
    candidate = SmallRunner(
        network, mask_bug=lambda mask: np.where(mask == DISC, 0, mask).astype(np.uint8)
    )
    (sentence,) = compare(SmallRunner(network), candidate, scene_pictures()).diagnosis
    assert sentence.startswith(f"the candidate never gives class {NAMES[DISC]}, which")
    assert sentence.endswith(f"most of them are {NAMES[0]} instead")


def test_rounding_alone_is_called_rounding(network: SmallNetwork) -> None:
    from fcn_deploy.parity import Gate

    candidate = SmallRunner(network, precision=Precision.FP16)
    result = compare(SmallRunner(network), candidate, scene_pictures(), gate=Gate(1.0, 1e-2))
    (sentence,) = result.diagnosis
    assert sentence.startswith("errors are small (ε = ")
    assert sentence.endswith("rounding, where the network is close to a tie")


@pytest.mark.parametrize("name", ["crop off on both axes", "two classes exchanged", "BGR", "NaN"])
def test_recordings_are_diagnosed_as_far_as_they_can_be(
    name: str, network: SmallNetwork, tmp_path: Path
) -> None:
    bug = BUGS[name]
    record(SmallRunner(network), scene_pictures(), tmp_path / "reference.json")
    record(SmallRunner(network, **bug.change), scene_pictures(), tmp_path / "candidate.json")
    result = compare_recordings(
        read_recording(tmp_path / "reference.json"), read_recording(tmp_path / "candidate.json")
    )
    assert not result.passed
    (sentence,) = result.diagnosis
    if name == "BGR":  # the reference cannot be asked again
        assert "neither a shift nor exchanged classes explain it" in sentence
        assert sentence.endswith("(saved outputs cannot tell whether channels are exchanged)")
    else:
        assert sentence == bug.said
