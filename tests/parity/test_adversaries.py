"""Candidates that are wrong where a gate is easily blind: each of them once passed."""

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, BatchShapeError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.parity import inputs
from fcn_deploy.parity.compare import compare, compare_recordings
from fcn_deploy.parity.gate import GATES, gate_of
from fcn_deploy.parity.recording import read_recording
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.results.parity import Comparison
from fcn_deploy.runners.base import Outputs
from tests import small_network
from tests.candidates import as_candidate
from tests.fakes import FAKE_SPEC, FakeRunner, OneBehind
from tests.parity.comparisons import Images, compared, failed, listed, made_up
from tests.small_network import SMALL_SPEC, SmallNetwork, SmallRunner, scene_pictures

network = small_network.network  # a fixture
BELOW_FP32 = [Precision.FP16, Precision.BF16, Precision.INT8]


def small(network: SmallNetwork, candidate: SmallRunner) -> Comparison:
    """Compare on scenes with the network itself."""
    (result,) = compare(SmallRunner(network), [as_candidate(candidate)], scene_pictures())
    return result


# -- what ships ---------------------------------------------------------------------------------


class OneTooFew(FakeRunner):
    def stream(self, batches: Iterable[Images]) -> Iterator[Outputs]:
        yield from list(super().stream(batches))[:-1]


def test_a_stream_that_is_one_picture_behind() -> None:
    for candidate in (as_candidate(FakeRunner(), OneBehind()), as_candidate(OneBehind())):
        (result,) = compare(FakeRunner(), [candidate], listed(made_up()))
        assert failed(result) == {"stream"}
        (sentence,) = result.diagnosis
        assert "batch 1 gets the masks of batch 0" in sentence


def test_a_file_that_ships_and_is_another_one() -> None:
    shipped = FakeRunner(see=lambda images: images[..., ::-1])
    (result,) = compare(FakeRunner(), [as_candidate(FakeRunner(), shipped)], listed(made_up()))
    assert failed(result) == {"stream"}


def test_a_stream_that_ends_early_is_an_error() -> None:
    candidate = as_candidate(FakeRunner(), OneTooFew())
    with pytest.raises(BackendError, match=r"gave \d+ results for \d+ batches"):
        compare(FakeRunner(), [candidate], listed(made_up()))


@pytest.mark.parametrize(("device", "passes"), [("cpu", False), ("cuda:0 (card)", True)])
def test_a_gpu_may_round_otherwise_in_the_file_that_ships(device: str, passes: bool) -> None:
    # Kernels are chosen by timing them: what ships may have others, and flips undecided pixels.
    candidate = FakeRunner(device=device, noise=0.02, precision=Precision.FP16)
    shipped = FakeRunner(device=device, noise=0.02, seed=1, precision=Precision.FP16)
    (result,) = compare(FakeRunner(), [as_candidate(candidate, shipped)], listed(made_up()))
    assert result.stream is not None
    assert result.stream.flips > 0
    assert failed(result) == (set() if passes else {"stream"})


# -- places in a batch --------------------------------------------------------------------------


class SecondBest(SmallRunner):
    """Gives undecided pixels their second class, but for the first picture of a batch."""

    undecided: float = 0.0

    def spares(self, images: Images) -> slice:
        """Return the places whose masks are right."""
        return slice(1)

    def _infer(self, images: Images) -> Outputs:
        outputs = super()._infer(images)
        assert outputs.logits is not None
        order = outputs.logits.argsort(axis=1)
        ranked = np.take_along_axis(outputs.logits, order[:, -2:], axis=1)
        close = ranked[:, 1] - ranked[:, 0] < self.undecided
        close[self.spares(images)] = False
        second = order[:, -2].astype(np.uint8)
        return replace(outputs, mask=np.where(close, second, outputs.mask))


@pytest.mark.slow
@pytest.mark.parametrize("precision", BELOW_FP32)
def test_second_classes_at_later_places(precision: Precision, network: SmallNetwork) -> None:
    honest = small(network, SmallRunner(network, precision=precision))
    assert honest.passed
    assert honest.epsilon is not None
    candidate = SecondBest(network, precision=precision)
    candidate.undecided = honest.epsilon
    result = small(network, candidate)
    assert failed(result) == {"place in batch"}
    # Not one of them is decided: it is their number that gives it away.
    assert max(check.widest_margin for check in result.batches) <= 2 * honest.epsilon


def test_a_mask_of_nothing_from_the_fifth_place_on(network: SmallNetwork) -> None:
    def emptied(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate([mask[:4], np.zeros_like(mask[4:])])

    assert failed(small(network, SmallRunner(network, mask_bug=emptied))) == {"place in batch"}


def test_logits_that_depend_on_the_place(network: SmallNetwork) -> None:
    def doubled(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([logits[:1], 2 * logits[1:]])  # the masks stay what they were

    result = small(network, SmallRunner(network, bug=doubled))
    assert failed(result) == {"place in batch"}
    (sentence,) = result.diagnosis
    assert sentence.startswith("the logits of pictures in a batch are others than")


# -- classes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "lower"), [(Precision.FP16, 0.5), (Precision.BF16, 0.5), (Precision.INT8, 3.0)]
)
def test_a_class_that_loses_most_of_its_pixels(
    precision: Precision, lower: float, network: SmallNetwork
) -> None:
    """The class is the one that the fewest pixels change with: the share of all stays high."""
    reference = SmallRunner(network)
    masks = np.stack([reference.run(p.image[None]).mask[0] for p in scene_pictures()])
    counts = np.bincount(masks.ravel(), minlength=SMALL_SPEC.num_classes)
    rare = min((int(n), index) for index, n in enumerate(counts) if n >= 300)[1]

    def lowered(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        changed = logits.copy()
        changed[:, rare] -= np.float32(lower)
        return changed

    result = small(network, SmallRunner(network, precision=precision, bug=lowered))
    assert "every class" in failed(result)
    name = SMALL_SPEC.class_names[rare]
    told = " ".join(result.diagnosis)
    figure = re.search(f"logits of class {name} are ([0-9.]+) too low at every pixel", told)
    assert figure is not None
    assert float(figure[1]) == pytest.approx(lower, rel=0.2)


def test_a_pixel_of_a_class_that_nobody_has() -> None:
    # Three pictures of four classes; the fifth comes up once, in the candidate.
    pictures = [
        replace(p, mask=np.where(p.mask == 4, 0, p.mask).astype(np.uint8)) for p in made_up()
    ]
    colours = np.array(FAKE_SPEC.palette, np.uint8)
    pictures = [replace(p, image=colours[p.mask]) for p in pictures]

    def stray(images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        if np.array_equal(images[0], pictures[0].image):
            mask[0, 5, 5] = 4
        return replace(outputs, mask=mask)

    result = compared(FakeRunner(), FakeRunner(bug=stray), listed(pictures))
    assert result.scores is not None
    assert result.scores.miou_change_points == pytest.approx(0, abs=0.01)
    assert "mIoU" not in failed(result)


# -- float32 ------------------------------------------------------------------------------------


def with_few_bits(network: SmallNetwork, bits: int) -> SmallNetwork:
    """Return the network with weights of fewer bits of mantissa: 10 as in half and TF32."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for weight in rounded.parameters():
            mantissa, exponent = torch.frexp(weight)
            weight.copy_(torch.ldexp((mantissa * 2**bits).round() / 2**bits, exponent))
    return rounded


@pytest.mark.parametrize("bits", [11, 14])
def test_weights_in_half_are_not_float32(bits: int, network: SmallNetwork) -> None:
    result = small(network, SmallRunner(with_few_bits(network, bits)))
    assert "logit error" in failed(result)
    # The limit that was, and still is that of three 8-bit products, does not see it.
    assert result.epsilon is not None
    assert result.epsilon < GATES["fp32-int8x3"].max_relative_epsilon * result.logit_scale


def test_three_products_of_eight_bits_have_limits_of_their_own() -> None:
    plain = FakeRunner().describe()
    split = replace(plain, arithmetic="int8x3")
    assert (plain.precision_name, split.precision_name) == ("fp32", "fp32-int8x3")
    assert gate_of(plain).max_relative_epsilon == 1e-5
    assert gate_of(split).max_relative_epsilon == 1e-3


def test_a_number_added_to_all_logits_widens_no_limit() -> None:
    def raised(_images: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        return replace(outputs, logits=outputs.logits + np.float32(1000))

    result = compared(
        FakeRunner(bug=raised), FakeRunner(bug=raised, noise=0.005), listed(made_up())
    )
    assert "logit error" in failed(result)


# -- size ---------------------------------------------------------------------------------------


def test_a_large_picture_that_comes_out_wrong() -> None:
    large = inputs.LARGE_SIZE

    def overflowing(_images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask
        return replace(outputs, mask=np.zeros_like(mask)) if mask.shape[1:] == large else outputs

    result = compared(FakeRunner(), FakeRunner(bug=overflowing), listed(made_up()))
    assert {"decided pixels", "all pixels"} <= failed(result)
    assert result.images.odd_sizes == (*inputs.ODD_SIZES, large)


class WrongOnItsOwn(SecondBest):
    """Gives undecided pixels their second class in the user's pictures, and in no others."""

    def spares(self, images: Images) -> slice:
        return slice(0) if images.shape == (1, 96, 128, 3) else slice(None)


def test_pictures_that_are_few_beside_what_is_made_of_them(network: SmallNetwork) -> None:
    own = [SmallRunner(network).run(p.image[None]).logits for p in scene_pictures()]
    margins = np.concatenate([margin_of(logits).ravel() for logits in own if logits is not None])
    candidate = WrongOnItsOwn(network, precision=Precision.INT8)
    candidate.undecided = float(np.quantile(margins, 0.045))
    result = small(network, candidate)
    assert result.agreement > result.gate.min_agreement  # of all pixels together
    assert "all pixels" in failed(result)


# -- candidates that do not take all ------------------------------------------------------------


class Bounded(FakeRunner):
    """An engine: it was built for batches of up to three, and for no large picture."""

    def _infer(self, images: Images) -> Outputs:
        if len(images) > 3 or images.shape[1:3] == inputs.LARGE_SIZE:
            raise BatchShapeError("no profile takes the shape", "build it for that")
        return super()._infer(images)


class OutOfMemory(FakeRunner):
    def _infer(self, images: Images) -> Outputs:
        if images.shape[1:3] == inputs.LARGE_SIZE:
            raise BackendError("backend fake failed (RuntimeError: can't allocate memory)")
        return super()._infer(images)


@pytest.mark.parametrize(("kind", "refused"), [(Bounded, 1), (OutOfMemory, 0)])
def test_what_a_candidate_does_not_take_is_told(
    kind: type[FakeRunner], refused: int, tmp_path: Path
) -> None:
    for reference, candidate in ((FakeRunner(), kind()), (kind(), FakeRunner())):
        (live,) = compare(reference, [as_candidate(candidate)], listed(made_up()))
        assert live.passed
        assert live.images.odd_sizes == inputs.ODD_SIZES
        if isinstance(candidate, kind):
            assert live.stream is not None
            assert live.stream.refused == refused
    record(as_candidate(FakeRunner()), listed(made_up()), tmp_path / "reference.json")
    record(as_candidate(kind()), listed(made_up()), tmp_path / "candidate.json")
    one, other = (read_recording(tmp_path / f"{n}.json") for n in ("reference", "candidate"))
    for pair in ((one, other), (other, one)):
        recorded = compare_recordings(*pair)
        assert recorded.passed, recorded.checks
        assert recorded.images.odd_sizes == inputs.ODD_SIZES


def test_another_failure_is_no_shape_that_is_not_taken() -> None:
    def fails(images: Images, outputs: Outputs) -> Outputs:
        if images.shape[1:3] == inputs.LARGE_SIZE:
            raise BackendError("illegal instruction")
        return outputs

    with pytest.raises(BackendError, match="illegal instruction"):
        compare(FakeRunner(), [as_candidate(FakeRunner(bug=fails))], listed(made_up()))
