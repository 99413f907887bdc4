"""Every planted bug is caught by the gate; an honest candidate passes."""

from __future__ import annotations

import base64
import gc
import io
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.core.errors import ArtifactError, BackendError, DataError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.parity.compare import compare, save
from fcn_deploy.parity.histogram import MarginHistogram
from fcn_deploy.parity.inputs import (
    ODD_SIZES,
    Pictures,
    labelled_pictures,
    made_extras,
)
from fcn_deploy.parity.tally import MAX_LISTED_FLIPS, Drawing
from fcn_deploy.parity.worst_pictures import drawn
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.read import read_files
from fcn_deploy.runners.base import Outputs, Runner
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
    (comparison,) = compare(reference, [candidate], pictures)
    return comparison


def result_of(candidate: FakeRunner, pictures: Sequence[NamedImage] | None = None) -> Comparison:
    return compared(FakeRunner(), candidate, listed(pictures or made_up()))


def failed(result: Comparison) -> set[str]:
    return {check.name for check in result.checks if not check.passed}


def test_an_equal_candidate_passes_with_nothing_flipped() -> None:
    result = result_of(FakeRunner())
    assert result.passed
    assert result.agreement == 1
    assert result.epsilon == 0
    assert (result.images.count, result.images.odd_sizes) == (3, ODD_SIZES)


@pytest.mark.parametrize(
    ("precision", "noise", "passes"),
    [
        (Precision.FP32, 1e-4, True),
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


def _classes_swapped(images: Images, outputs: Outputs) -> Outputs:
    swap = np.array([0, 2, 1, 3, 4], np.uint8)
    return replace(outputs, mask=swap[outputs.mask])


PLANTED: dict[str, tuple[FakeRunner, str]] = {
    "BGR": (FakeRunner(see=lambda images: images[..., ::-1]), "logit error"),
    "wrong mean": (
        FakeRunner(see=lambda images: np.clip(images.astype(int) + 12, 0, 255).astype(np.uint8)),
        "logit error",
    ),
    "crop off by one": (FakeRunner(bug=_rolled(1)), "all pixels"),
    "crop off by one in the mask alone": (FakeRunner(bug=_mask_rolled), "decided pixels"),
    "swapped classes": (FakeRunner(bug=_classes_swapped), "decided pixels"),
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


def test_nan_is_caught() -> None:
    def poison(images: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        logits = outputs.logits.copy()
        logits[:, 0, 0, 0] = np.nan
        return replace(outputs, logits=logits)

    result = result_of(FakeRunner(bug=poison))
    assert "finite logits" in failed(result)
    json.dumps(result.to_json(), allow_nan=False)  # still valid JSON


@pytest.mark.parametrize("count", [1, 2, 3])
def test_masks_that_depend_on_the_place_in_the_batch_are_caught(count: int) -> None:
    def leak(images: Images, outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        mask[1:] = outputs.mask[:1]  # everyone gets the first picture's mask
        return replace(outputs, mask=mask)

    result = result_of(FakeRunner(bug=leak), made_up(count))
    assert failed(result) == {"place in batch"}
    # Even of a single picture: no two of the batch are alike, and each knows its own mask.
    moved = "place 1 gets the mask of place 0, place 2 gets the mask of place 0: look"
    assert f"pictures); {moved}" in result.diagnosis[0]


def test_a_lost_class_shows_in_miou_and_worst_class() -> None:
    def drop_green(images: Images, outputs: Outputs) -> Outputs:
        return replace(outputs, mask=np.where(outputs.mask == 2, 0, outputs.mask).astype(np.uint8))

    content = result_of(FakeRunner(bug=drop_green)).to_json()
    assert content["scores"]["worst_class"]["name"] == "green"
    assert content["scores"]["worst_class"]["change_points"] < -50
    assert not content["passed"]


def test_unlabelled_pictures_have_no_scores() -> None:
    pictures = [NamedImage(picture.name, picture.image) for picture in made_up()]
    result = result_of(FakeRunner(), pictures)
    assert result.to_json()["scores"] is None
    assert "mIoU" not in {check.name for check in result.checks}


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
    result = result_of(FakeRunner(bug=_classes_swapped))
    content = result.to_json()
    assert not content["flip_list_complete"]
    assert len(content["flip_list"]) == MAX_LISTED_FLIPS
    assert content["flip_list"][0]["margin"] == content["widest_flip_margin"]
    flipped = []
    for picture in (*made_up(), *made_extras(made_up()).odd_sizes):
        outputs = FakeRunner().run(picture.image[None])
        assert outputs.logits is not None
        flipped.append(margin_of(outputs.logits)[np.isin(outputs.mask, (1, 2))])
    margins = np.sort(np.concatenate(flipped))[::-1]
    assert len(margins) > MAX_LISTED_FLIPS
    listed_margins = [flip["margin"] for flip in content["flip_list"]]
    assert listed_margins == margins[:MAX_LISTED_FLIPS].tolist()


def test_no_pictures_and_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match="--images"):
        compared(FakeRunner(), FakeRunner(), listed([]))
    other = replace(FAKE_SPEC, class_names=("a", "b", "c", "d", "e"))
    with pytest.raises(InputError, match="other classes"):
        compared(FakeRunner(), FakeRunner(other), listed(made_up()))
    with pytest.raises(InputError, match="logits"):
        compared(FakeRunner(), FakeRunner(outputs=("mask",)), listed(made_up()))


def test_the_worst_pictures_are_drawn(tmp_path: Path) -> None:
    def flip_second(images: Images, outputs: Outputs) -> Outputs:
        if np.array_equal(images[0], made_up()[1].image):
            return replace(outputs, mask=(outputs.mask + 1) % 5)
        return outputs

    result = result_of(FakeRunner(bug=flip_second))
    save([result], tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["kind"] == "parity"
    entries = document["results"][0]["pictures"]
    assert entries[0]["name"] == "p1"
    assert entries[0]["flips"] == entries[0]["pixels"] == 96 * 128
    views = {name: unpacked(uri) for name, uri in entries[0]["views"].items()}
    assert list(views) == ["image", "reference", "candidate", "flips", "margin"]
    assert {view.size for view in views.values()} == {(128, 96)}
    assert views["image"].format == "JPEG"
    shown = np.asarray(views["candidate"].convert("RGB"))
    palette = np.array(FAKE_SPEC.palette, np.uint8)
    reference = FakeRunner().run(made_up()[1].image[None]).mask[0]
    assert np.array_equal(shown, palette[(reference + 1) % 5])
    scale = entries[0]["margin_scale"]
    assert scale["low"] == 0 < scale["high"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def unpacked(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_wide_picture_is_shrunk_and_no_flip_is_lost() -> None:
    height, width = 1000, 1500
    reference = np.zeros((height, width), np.uint8)
    reference[:, 700:] = 1
    candidate = reference.copy()
    candidate[501, 333] = 2
    generator = np.random.default_rng(0)
    drawing = Drawing(
        "wide",
        1,
        reference.size,
        generator.integers(0, 256, (height, width, 3), dtype=np.uint8),
        reference,
        candidate,
        np.linspace(0, 8, reference.size, dtype=np.float32).reshape(reference.shape),
    )
    (entry,) = drawn([drawing], FAKE_SPEC.palette, budget=10**9)
    views = {name: unpacked(view.uri) for name, view in entry.views.items()}
    assert (entry.name, entry.flips, entry.pixels) == ("wide", 1, height * width)
    assert entry.size == (height, width)
    assert {(view.width, view.height) for view in entry.views.values()} == {(960, 640)}
    assert {view.size for view in views.values()} == {(960, 640)}
    pink = (np.asarray(views["flips"].convert("RGB")) == (255, 0, 160)).all(axis=2)
    assert np.argwhere(pink).mean(axis=0).tolist() == [501 * 640 // 1000, 333 * 960 // 1500]
    assert pink.sum() == 9
    assert set(np.unique(np.asarray(views["reference"]))) == {0, 1}
    assert entry.margin_scale.high == pytest.approx(0.95 * 8, rel=1e-3)
    heat = np.asarray(views["margin"].convert("RGB")).astype(int)
    brightness = heat[..., 1].mean(axis=1)  # green grows along the whole of viridis
    assert brightness[0] < brightness[320] < brightness[639]
    # Noise compresses badly: a small budget makes the pictures smaller.
    (small,) = drawn([drawing], FAKE_SPEC.palette, budget=300_000)
    assert sum(len(view.uri) for view in small.views.values()) <= 300_000
    assert unpacked(small.views["image"].uri).width < 960


def test_saving_again_replaces_the_file_and_failing_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = result_of(FakeRunner())
    older = tmp_path / "r-fake-01234567"  # of a version that wrote its pictures there
    older.mkdir()
    save([result], tmp_path / "r.json")
    save([result], tmp_path / "r.json")
    before = sorted(tmp_path.rglob("*"))
    assert before == [older, tmp_path / "r.json"]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="disk is full"):
        save([result], tmp_path / "r.json")
    assert sorted(tmp_path.rglob("*")) == before


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


def test_other_classes_of_the_data_are_refused(tmp_path: Path) -> None:
    scenes = SceneDataset(0, 2, (20, 30))
    with pytest.raises(DataError, match=r"8 classes .*the model 5 classes"):
        labelled_pictures(scenes, FAKE_SPEC)
    fitting = replace(
        FAKE_SPEC, class_names=scenes.class_names, palette=FAKE_SPEC.palette + ((1, 2, 3),) * 3
    )
    pictures = labelled_pictures(scenes, fitting, limit=1)
    assert [p.name for p in pictures] == ["scene_0_0000"]
    assert isinstance(pictures.picture(0), Sample)


@given(st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=50), st.floats(1e-6, 1e3))
def test_margin_histogram_never_overstates(margins: list[float], threshold: float) -> None:
    histogram = MarginHistogram()
    histogram.add(np.array(margins, np.float32))
    counted = histogram.at_least(threshold)
    assert counted <= sum(m >= threshold for m in margins)
    assert counted >= sum(m >= threshold * 1.1 for m in margins)


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
        if mask.shape[1:] == (561, 728):
            mask[0, 0, 0] = (mask[0, 0, 0] + 1) % 5
        return replace(outputs, mask=mask)

    result = result_of(FakeRunner(bug=flip_one))
    (sentence,) = [check.sentence for check in result.checks if check.name == "all pixels"]
    assert sentence.startswith("99.9997 % of")
    assert "(1 flip," in sentence


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
    assert content["flips"] == len(content["flip_list"]) == 3 + len(ODD_SIZES)
    assert [flip["picture"] for flip in content["flip_list"]][:3] == ["p0", "p1", "p2"]


# -- several candidates -------------------------------------------------------------------------


def leaking(_: Images, outputs: Outputs) -> Outputs:
    mask = outputs.mask.copy()
    mask[1:] = outputs.mask[:1]
    return replace(outputs, mask=mask)


def honest_ones(count: int) -> list[FakeRunner]:
    return [FakeRunner(backend=f"honest {n}", noise=1e-4, seed=n) for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pictures_are_decoded_and_given_to_the_reference_once(count: int) -> None:
    pictures, decoded, steps = made_up(), [], []

    def picture(index: int) -> NamedImage:
        decoded.append(index)
        return pictures[index]

    reference, candidates = FakeRunner(), honest_ones(count)
    results = compare(
        reference,
        candidates,
        Pictures("counted", 3, picture),
        on_picture=lambda: steps.append(len(reference.shapes)),
    )
    assert [result.candidate.backend for result in results] == [
        candidate.describe().backend for candidate in candidates
    ]
    assert all(result.passed for result in results)
    assert decoded == [0, 1, 2]
    assert steps == [1, 2, 3]
    assert reference.shapes == [(1, *p.image.shape) for p in pictures] + [
        (1, *size, 3) for size in ODD_SIZES
    ]
    for candidate in candidates:  # each picture, the batch, its pictures alone
        assert len(candidate.shapes) == 3 + len(ODD_SIZES) + 1 + 3


def test_the_reference_is_asked_once_about_a_batch_that_several_get_wrong() -> None:
    asked = []
    for count in (1, 3):
        reference = FakeRunner()
        results = compare(
            reference, [FakeRunner(bug=leaking) for _ in range(count)], listed(made_up())
        )
        assert {check for result in results for check in failed(result)} == {"place in batch"}
        asked.append(len(reference.shapes))
    assert asked == [3 + len(ODD_SIZES) + 2] * 2  # the first of the three has its own mask


def test_candidates_side_by_side_have_the_results_of_each_alone() -> None:
    candidates = [
        FakeRunner(backend="equal"),
        FakeRunner(backend="rounding", noise=0.05, precision=Precision.FP16),
        FakeRunner(backend="wrong", noise=1.0),
        FakeRunner(backend="swapped", see=lambda images: images[..., ::-1]),
        FakeRunner(backend="leaking", bug=leaking),
    ]
    together = compare(FakeRunner(), candidates, listed(made_up()))
    alone = [result_of(candidate) for candidate in candidates]
    assert list(together) == alone
    assert len({result.passed for result in together}) == 2


def test_logits_are_not_kept() -> None:
    made: list[weakref.ref[NDArray[np.float32]]] = []
    held: list[int] = []

    def watched(_: Images, outputs: Outputs) -> Outputs:
        assert outputs.logits is not None
        made.append(weakref.ref(outputs.logits))
        return outputs

    def count() -> None:
        gc.collect()
        held.append(sum(array() is not None for array in made))

    compare(
        FakeRunner(bug=watched),
        [FakeRunner(bug=watched), FakeRunner(bug=watched, noise=0.01)],
        listed(made_up(6)),
        on_picture=count,
    )
    assert held == [0] * 6


def test_a_candidate_that_fails_ends_the_comparison() -> None:
    def breaks(images: Images, outputs: Outputs) -> Outputs:
        if np.array_equal(images[0], made_up()[1].image):
            raise BackendError("out of memory", "use smaller pictures")
        return outputs

    candidates = [*honest_ones(1), FakeRunner(bug=breaks), *honest_ones(1)]
    with pytest.raises(BackendError, match="out of memory"):
        compare(FakeRunner(), candidates, listed(made_up()))
    other = FakeRunner(replace(FAKE_SPEC, class_names=("a", "b", "c", "d", "e")))
    with pytest.raises(InputError, match="other classes"):
        compare(FakeRunner(), [FakeRunner(), other], listed(made_up()))


def test_a_comparison_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    swapped = FakeRunner(backend="swapped", see=lambda images: images[..., ::-1])
    unlabelled = [NamedImage(picture.name, picture.image) for picture in made_up()]
    made = [
        *compare(FakeRunner(), [*honest_ones(1), swapped], listed(made_up())),
        *compare(FakeRunner(), [swapped], listed(unlabelled)),
    ]
    save(made, tmp_path / "r.json")
    assert list(read_files([tmp_path / "r.json"]).comparisons) == made
    document = json.loads((tmp_path / "r.json").read_text())
    assert (document["arguments"], document["options"]) == (None, None)
    assert [Path(file).name for file in read_files([tmp_path / "r.json"]).files] == ["r.json"]
