"""Comparisons of one candidate and of several: scores, what is refused, and the file of results."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, BackendError, DataError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.parity import inputs
from fcn_deploy.parity.compare import compare, save
from fcn_deploy.parity.inputs import Pictures, labelled_pictures
from fcn_deploy.results.read import read_files
from fcn_deploy.runners.base import Outputs
from tests.candidates import as_candidate, as_candidates
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.parity.comparisons import (
    Images,
    compared,
    failed,
    first_for_all,
    listed,
    made_up,
    result_of,
)


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


def test_no_pictures_and_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match="--images"):
        compared(FakeRunner(), FakeRunner(), listed([]))
    other = replace(FAKE_SPEC, class_names=("a", "b", "c", "d", "e"))
    with pytest.raises(InputError, match="other classes"):
        compared(FakeRunner(), FakeRunner(other), listed(made_up()))
    with pytest.raises(InputError, match="logits"):
        compared(FakeRunner(), FakeRunner(outputs=("mask",)), listed(made_up()))


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


# -- several candidates -------------------------------------------------------------------------


def honest_ones(count: int) -> list[FakeRunner]:
    return [FakeRunner(backend=f"honest {n}", noise=1e-5, seed=n) for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_pictures_are_decoded_and_given_to_the_reference_once(count: int) -> None:
    pictures, decoded, steps = made_up(), [], []

    def picture(index: int) -> NamedImage:
        decoded.append(index)
        return pictures[index]

    reference, candidates = FakeRunner(), honest_ones(count)
    results = compare(
        reference,
        as_candidates(candidates),
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
        (1, *size, 3) for size in (*inputs.ODD_SIZES, inputs.LARGE_SIZE)
    ]
    alone = 3 + len(inputs.ODD_SIZES) + 1
    batches, streamed = [3, 8], 8
    for candidate in candidates:
        # Each once alone or in its batch, those of batches also alone, and the extras in a stream.
        once = alone + len(batches) + sum(batches) + streamed
        assert len(candidate.shapes) == once + (alone - 3) + len(batches) + streamed


def test_the_reference_is_asked_once_about_a_batch_that_several_get_wrong() -> None:
    asked = []
    for count in (1, 3):
        reference = FakeRunner()
        results = compare(
            reference,
            as_candidates(FakeRunner(bug=first_for_all) for _ in range(count)),
            listed(made_up()),
        )
        assert {check for result in results for check in failed(result)} == {"place in batch"}
        asked.append(len(reference.shapes))
    # Once about each picture that has two masks: all of a batch but the first.
    assert asked == [3 + len(inputs.ODD_SIZES) + 1 + (3 - 1) + (8 - 1)] * 2


@pytest.mark.slow
def test_candidates_side_by_side_have_the_results_of_each_alone() -> None:
    candidates = [
        FakeRunner(backend="equal"),
        FakeRunner(backend="rounding", noise=0.05, precision=Precision.FP16),
        FakeRunner(backend="wrong", noise=1.0),
        FakeRunner(backend="swapped", see=lambda images: images[..., ::-1]),
        FakeRunner(backend="leaking", bug=first_for_all),
    ]
    # Without the search for causes, which asks the reference about each candidate anew.
    together = compare(FakeRunner(), as_candidates(candidates), listed(made_up()), can_rerun=False)
    alone = [
        compare(FakeRunner(), [as_candidate(one)], listed(made_up()), can_rerun=False)[0]
        for one in candidates
    ]
    assert list(together) == alone
    assert [result.passed for result in together] == [True, True, False, False, False]


@pytest.mark.slow
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
        as_candidates([FakeRunner(bug=watched), FakeRunner(bug=watched, noise=0.01)]),
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
        compare(FakeRunner(), as_candidates(candidates), listed(made_up()))
    other = FakeRunner(replace(FAKE_SPEC, class_names=("a", "b", "c", "d", "e")))
    with pytest.raises(InputError, match="other classes"):
        compare(FakeRunner(), as_candidates([FakeRunner(), other]), listed(made_up()))


def test_a_comparison_is_read_back_as_it_was_made(tmp_path: Path) -> None:
    swapped = FakeRunner(backend="swapped", see=lambda images: images[..., ::-1])
    unlabelled = [NamedImage(picture.name, picture.image) for picture in made_up()]
    made = [
        *compare(FakeRunner(), as_candidates([*honest_ones(1), swapped]), listed(made_up())),
        *compare(FakeRunner(), [as_candidate(swapped)], listed(unlabelled)),
    ]
    save(made, tmp_path / "r.json")
    assert list(read_files([tmp_path / "r.json"]).comparisons) == made
    document = json.loads((tmp_path / "r.json").read_text())
    assert (document["arguments"], document["options"]) == (None, None)
    assert [Path(file).name for file in read_files([tmp_path / "r.json"]).files] == ["r.json"]
