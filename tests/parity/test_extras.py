"""What every candidate is asked beside the pictures, at the sizes that users get."""

import importlib.util
import itertools
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.core.run import Run
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.parity import inputs
from fcn_deploy.parity.candidate import Candidate
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import Pictures, made_extras
from fcn_deploy.runners.base import open_runner


def as_written() -> ModuleType:
    """Return the module anew: the tests' own has small sizes."""
    spec = importlib.util.find_spec("fcn_deploy.parity.inputs")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sizes_reach_from_one_pixel_to_beyond_1024_by_2048() -> None:
    module = as_written()
    assert module.ODD_SIZES[0] == (1, 1)
    assert (561, 728) in module.ODD_SIZES
    assert module.LARGE_SIZE[0] > 1024
    assert module.LARGE_SIZE[1] > 2048
    # 21 classes of VOC fit, 150 would be 1.3 GB of logits several times over.
    height, width = module.LARGE_SIZE
    assert 21 * height * width <= module.MOST_LOGITS < 150 * height * width


@given(
    count=st.integers(1, 6), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers()
)
def test_batches_are_of_one_size_and_no_two_pictures_share_a_mask(
    count: int, height: int, width: int, seed: int
) -> None:
    generator = np.random.default_rng(abs(seed))
    first = [
        NamedImage(f"p{n}", generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for n in range(count)
    ]
    extras = made_extras(first)
    stream = extras.stream(with_large=True)
    assert [len(batch) for batch in extras.batches] == [3, 8]
    assert sum(map(len, extras.streamed)) == 12
    for batch in stream:
        assert len({picture.image.shape for picture in batch}) == 1
    assert {id(p) for p in extras.alone(with_large=True)} <= {id(p) for b in stream for p in b}
    # Neighbours of one size in the stream differ, or a mix-up would not show.
    if height * width >= 64 and min(height, width) > 2:
        for one, other in itertools.pairwise(stream):
            if len(one) == len(other) and one[0].image.shape == other[0].image.shape:
                assert not np.array_equal(one[0].image, other[0].image)


@pytest.mark.slow
def test_a_real_network_passes_at_the_sizes_that_users_get(
    tiny_run: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = as_written(), Run.from_argument(str(tiny_run))
    monkeypatch.setattr(inputs, "ODD_SIZES", module.ODD_SIZES)
    monkeypatch.setattr(inputs, "LARGE_SIZE", module.LARGE_SIZE)
    generator = np.random.default_rng(0)
    picture = NamedImage("noise", generator.integers(0, 256, (97, 131, 3), dtype=np.uint8))
    both = ("mask", "logits")
    with (
        open_runner(run, "torch", outputs=both) as reference,
        open_runner(run, "ort", outputs=both) as runner,
    ):
        candidate = Candidate(runner, lambda: open_runner(run, "ort"))
        (result,) = compare(reference, [candidate], Pictures("noise", 1, [picture].__getitem__))
    assert result.passed, [check.sentence for check in result.checks if not check.passed]
    assert result.images.odd_sizes == (*module.ODD_SIZES, module.LARGE_SIZE)
    assert result.stream is not None
    assert result.stream.flips == 0
