"""Made-up pictures, and comparisons of fake candidates on them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.results.parity import Comparison
from fcn_deploy.runners.base import Outputs, Runner
from tests.candidates import as_candidate
from tests.fakes import FAKE_SPEC, FakeRunner

Images = NDArray[np.uint8]


def made_up(count: int = 3) -> list[Sample]:
    """Return pictures of smooth class colours with their truth."""
    generator = np.random.default_rng(5)
    pictures = []
    for number in range(count):
        coarse = generator.integers(0, FAKE_SPEC.num_classes, (6, 8), dtype=np.uint8)
        truth = np.kron(coarse, np.ones((16, 16), np.uint8))
        colours = np.array(FAKE_SPEC.palette, np.uint8)[truth]
        noise = generator.integers(-30, 31, colours.shape)
        image = np.clip(colours.astype(int) + noise, 0, 255).astype(np.uint8)
        pictures.append(Sample(f"p{number}", image, truth))
    return pictures


def listed(pictures: Sequence[NamedImage]) -> Pictures:
    return Pictures("made up", len(pictures), pictures.__getitem__)


def compared(reference: Runner, candidate: Runner, pictures: Pictures) -> Comparison:
    """Compare a single candidate."""
    (comparison,) = compare(reference, [as_candidate(candidate)], pictures)
    return comparison


def result_of(candidate: FakeRunner, pictures: Sequence[NamedImage] | None = None) -> Comparison:
    return compared(FakeRunner(), candidate, listed(pictures or made_up()))


def failed(result: Comparison) -> set[str]:
    return {check.name for check in result.checks if not check.passed}


def classes_swapped(images: Images, outputs: Outputs) -> Outputs:
    swap = np.array([0, 2, 1, 3, 4], np.uint8)
    return replace(outputs, mask=swap[outputs.mask])


def first_for_all(_images: Images, outputs: Outputs) -> Outputs:
    """Every picture of a batch gets the mask of the first."""
    mask = outputs.mask.copy()
    mask[1:] = outputs.mask[:1]
    return replace(outputs, mask=mask)
