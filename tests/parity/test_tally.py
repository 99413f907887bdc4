"""How flips are counted and listed: by class, by margin and by distance to an edge."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.core.errors import BackendError
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.parity.histogram import MarginHistogram
from fcn_deploy.parity.inputs import ODD_SIZES, made_extras
from fcn_deploy.parity.tally import MAX_LISTED_FLIPS
from fcn_deploy.runners.base import Outputs
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.parity.comparisons import Images, classes_swapped, compared, listed, made_up, result_of


def test_every_flip_is_listed_widest_first_with_what_it_was() -> None:
    def flip_some(images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        if mask.shape[1] == 96:
            mask[:, 3, 5:9] = (mask[:, 3, 5:9] + 1) % 5
        return replace(outputs, mask=mask)

    result = result_of(FakeRunner(bug=flip_some), made_up(2))
    content = result.to_json()
    flips = content["flip_list"]
    assert content["flip_list_complete"]
    assert len(flips) == content["flips"] == 8
    assert {(f["row"], f["column"]) for f in flips} == {(3, c) for c in range(5, 9)}
    margins = [flip["margin"] for flip in flips]
    assert margins == sorted(margins, reverse=True)
    assert all((f["reference_class"] + 1) % 5 == f["candidate_class"] for f in flips)
    assert content["widest_flip_margin"] == margins[0]
    assert content["boundary"]["flips"] + content["interior"]["flips"] == 8


def test_a_long_list_of_flips_keeps_the_widest() -> None:
    result = result_of(FakeRunner(bug=classes_swapped))
    content = result.to_json()
    assert not content["flip_list_complete"]
    assert len(content["flip_list"]) == MAX_LISTED_FLIPS
    assert content["flip_list"][0]["margin"] == content["widest_flip_margin"]
    flipped = []
    for picture in (*made_up(), *made_extras(made_up()).alone(with_large=True)):
        outputs = FakeRunner().run(picture.image[None])
        assert outputs.logits is not None
        flipped.append(margin_of(outputs.logits)[np.isin(outputs.mask, (1, 2))])
    margins = np.sort(np.concatenate(flipped))[::-1]
    assert len(margins) > MAX_LISTED_FLIPS
    listed_margins = [flip["margin"] for flip in content["flip_list"]]
    assert listed_margins == margins[:MAX_LISTED_FLIPS].tolist()


def test_flips_are_counted_by_class_margin_and_distance() -> None:
    # Two regions side by side, and one flip at each distance from the edge between them.
    truth = np.zeros((64, 128), np.uint8)
    truth[:, 64:] = 3
    image = np.array(FAKE_SPEC.palette, np.uint8)[truth]
    columns = (63, 62, 61, 60, 56, 48, 47, 0)

    def flip_some(images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        if mask.shape[1:] == truth.shape:
            mask[:, 30, columns[:6]] = 1
            mask[:, 30, columns[6:]] = 2
        assert outputs.logits is not None
        return replace(outputs, mask=mask, logits=outputs.logits + np.float32(0.25))

    content = result_of(FakeRunner(bug=flip_some), [NamedImage("p", image)]).to_json()
    assert content["flips_by_class"] == [
        {"reference": 0, "candidate": 1, "flips": 6},
        {"reference": 0, "candidate": 2, "flips": 2},
    ]
    by_distance = content["flips_by_distance"]
    assert [(b["from_px"], b["to_px"]) for b in by_distance] == [
        (1, 1), (2, 2), (3, 3), (4, 8), (9, 16), (17, None),
    ]  # fmt: skip
    assert [band["flips"] for band in by_distance] == [1, 1, 1, 2, 1, 2]
    assert sum(band["pixels"] for band in by_distance) == content["images"]["pixels"]
    by_margin = content["flips_by_margin"]
    assert [b["from"] for b in by_margin] == pytest.approx([0, 0.125, 0.25, 0.5])
    assert [b["to"] for b in by_margin[:-1]] == [b["from"] for b in by_margin[1:]]
    assert by_margin[-1]["to"] is None
    assert [bucket["flips"] for bucket in by_margin] == [0, 0, 0, 8]  # flat colours are decided
    assert sum(bucket["pixels"] for bucket in by_margin) == content["images"]["pixels"]
    assert content["palette"] == [list(colour) for colour in FAKE_SPEC.palette]


def test_without_an_error_all_margins_are_one_bucket() -> None:
    content = result_of(FakeRunner(), made_up(1)).to_json()
    (bucket,) = content["flips_by_margin"]
    assert bucket == {"from": 0, "to": None, "pixels": content["images"]["pixels"], "flips": 0}


def test_a_mask_of_unknown_classes_is_refused() -> None:
    void = FakeRunner(bug=lambda _, outputs: replace(outputs, mask=outputs.mask + np.uint8(7)))
    with pytest.raises(BackendError, match="the network has 5 classes"):
        result_of(void)


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=50), st.floats(1e-6, 1e3))
def test_margin_histogram_never_overstates(margins: list[float], threshold: float) -> None:
    histogram = MarginHistogram()
    histogram.add(np.array(margins, np.float32))
    counted = histogram.at_least(threshold)
    assert counted <= sum(m >= threshold for m in margins)
    assert counted >= sum(m >= threshold * 1.1 for m in margins)


def test_flips_of_equal_margin_in_pictures_of_shrinking_size_are_all_listed() -> None:
    def level(images: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        return replace(
            outputs, logits=np.zeros_like(outputs.logits), mask=np.zeros_like(outputs.mask)
        )

    def flip_the_second_pixel(images: Images, outputs: Outputs) -> Outputs:
        level_outputs = level(images, outputs)
        level_outputs.mask[:, 0, min(1, images.shape[2] - 1)] = 1  # 1×1 has but a first
        return level_outputs

    result = compared(
        FakeRunner(bug=level), FakeRunner(bug=flip_the_second_pixel), listed(made_up())
    )
    content = result.to_json()
    assert content["flips"] == len(content["flip_list"]) == 3 + len(ODD_SIZES) + 1
    assert [flip["picture"] for flip in content["flip_list"]][:3] == ["p0", "p1", "p2"]
