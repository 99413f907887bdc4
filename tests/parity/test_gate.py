"""Every planted bug is caught by the gate; an honest candidate passes."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.spec import Precision
from fcn_deploy.parity import inputs
from fcn_deploy.results.parity import Comparison
from fcn_deploy.runners.base import Outputs
from tests.fakes import FakeRunner
from tests.parity.comparisons import (
    Images,
    classes_swapped,
    compared,
    failed,
    first_for_all,
    listed,
    made_up,
    result_of,
)  # fmt: skip


def test_an_equal_candidate_passes_with_nothing_flipped() -> None:
    result = result_of(FakeRunner())
    assert result.passed
    assert result.agreement == 1
    assert result.epsilon == 0
    assert (result.images.count, result.images.odd_sizes) == (
        3,
        (*inputs.ODD_SIZES, inputs.LARGE_SIZE),
    )


@pytest.mark.parametrize(
    ("precision", "noise", "passes"),
    [
        (Precision.FP32, 1e-5, True),
        (Precision.FP32, 0.05, False),
        (Precision.FP16, 0.05, True),
        (Precision.FP16, 1.0, False),
    ],
)
def test_rounding_passes_by_the_limits_of_its_precision(
    precision: Precision, noise: float, passes: bool
) -> None:
    result = result_of(FakeRunner(noise=noise, precision=precision))
    assert result.passed is passes
    if not passes:
        assert "logit error" in failed(result)
    # What ε cannot explain must not happen, however large ε is.
    assert "decided pixels" not in failed(result)


def _rolled(rows: int) -> Callable[[Images, Outputs], Outputs]:
    def bug(images: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        return replace(
            outputs,
            mask=np.roll(outputs.mask, rows, axis=1),
            logits=np.roll(outputs.logits, rows, axis=2),
        )

    return bug


def _mask_rolled(images: Images, outputs: Outputs) -> Outputs:
    return replace(outputs, mask=np.roll(outputs.mask, 1, axis=2))


PLANTED: dict[str, tuple[FakeRunner, str]] = {
    "BGR": (FakeRunner(see=lambda images: images[..., ::-1]), "logit error"),
    "wrong mean": (
        FakeRunner(see=lambda images: np.clip(images.astype(int) + 12, 0, 255).astype(np.uint8)),
        "logit error",
    ),
    "crop off by one": (FakeRunner(bug=_rolled(1)), "all pixels"),
    "crop off by one in the mask alone": (FakeRunner(bug=_mask_rolled), "decided pixels"),
    "swapped classes": (FakeRunner(bug=classes_swapped), "decided pixels"),
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("precision", list(Precision))
def test_planted_bugs_are_caught(name: str, precision: Precision) -> None:
    planted, check = PLANTED[name]
    planted._description = replace(planted.describe(), precision=precision.value)
    result = result_of(planted)
    assert not result.passed
    # Coarse gates allow as many flips; there it is what undoes the bug that gives it away.
    eight_bits = precision in (Precision.BF16, Precision.INT8)
    assert check in failed(result) or (eight_bits and "only rounding" in failed(result))


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_a_bug_is_caught_beside_coarse_rounding(precision: Precision) -> None:
    def coarse(**bug: Any) -> Comparison:
        candidate = FakeRunner(noise=0.15, **bug)
        candidate._description = replace(candidate.describe(), precision=precision.value)
        return result_of(candidate)

    assert coarse().passed
    for bug, said in (
        ({"bug": _rolled(1)}, "the candidate's masks lie 1 px down: a crop"),
        ({"see": PLANTED["wrong mean"][0]._see}, "the candidate's mean and std are others"),
    ):
        result = coarse(**bug)
        assert "only rounding" in failed(result)
        # What the gate found is what the diagnosis says, and nothing beside it.
        (sentence,) = result.diagnosis
        assert sentence.startswith(said)
        assert sentence in {check.sentence for check in result.checks}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_masks_that_depend_on_the_place_in_the_batch_are_caught(count: int) -> None:
    result = result_of(FakeRunner(bug=first_for_all), made_up(count))
    assert failed(result) == {"place in batch"}
    # Even of a single picture: no two of the batch are alike, and each knows its own mask.
    moved = "place 1 gets the mask of place 0, place 2 gets the mask of place 0: look"
    assert f"pictures); {moved}" in result.diagnosis[0]


def test_a_nan_in_the_reference_is_a_failed_gate_not_a_crash() -> None:
    def poison(images: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        logits = outputs.logits.copy()
        logits[:, :, 0, 0] = np.nan
        return replace(outputs, logits=logits, mask=np.zeros_like(outputs.mask))

    result = compared(FakeRunner(bug=poison), FakeRunner(), listed(made_up()))
    assert "finite logits" in failed(result)
    json.dumps(result.to_json(), allow_nan=False)


def test_a_single_flip_is_never_rounded_away() -> None:
    def flip_one(images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        if mask.shape[1:] == inputs.ODD_SIZES[2]:
            mask[0, 0, 0] = (mask[0, 0, 0] + 1) % 5
        return replace(outputs, mask=mask)

    result = result_of(FakeRunner(bug=flip_one))
    (sentence,) = [check.sentence for check in result.checks if check.name == "all pixels"]
    assert sentence.startswith("99.9990 % of")
    assert "(1 flip," in sentence
