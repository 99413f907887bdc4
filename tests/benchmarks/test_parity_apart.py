"""Masks compared with a recording, without the logits of the candidate."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gpu_page.page import NOT_MEASURED
from gpu_page.results import MASKS_SCHEMA
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs
from tests.benchmarks.gpu_page_lines import result_of
from tests.benchmarks.gpu_result_files import on_gpu
from tests.benchmarks.gpu_scripts import load_script
from tests.candidates import as_candidate
from tests.fakes import FakeRunner
from tests.parity.comparisons import listed, made_up

Compare = Callable[..., int]


@pytest.fixture
def script() -> ModuleType:
    return load_script("parity_apart")


@pytest.fixture
def compare(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compare a runner with the recording of the float32 one; return the exit code."""
    (tmp_path / "run").mkdir()
    record(as_candidate(FakeRunner()), listed(made_up(3)), tmp_path / "reference.json")

    def compared(runner: FakeRunner, *options: str) -> int:
        def opened(run: object, backend: str, **asked: Any) -> FakeRunner:
            assert asked == {"precision": Precision.FP16}  # the mask alone
            return runner

        monkeypatch.setattr(script, "open_runner", opened)
        words = ["run", "ort-cuda", "fp16", "data", ".", "masks.json", "--masks-only", *options]
        try:
            script.main(["compare", *words])
        except SystemExit as stop:
            return int(str(stop.code))
        return 0

    monkeypatch.chdir(tmp_path)
    return compared


def test_the_share_of_equal_masks_is_told(
    compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    def other_class(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        mask = outputs.mask.copy()
        mask[:, 0, :5] = (mask[:, 0, :5] + 1) % 5
        return replace(outputs, mask=mask)

    half = partial(FakeRunner, bug=other_class, precision=Precision.FP16, outputs=("mask",))
    assert compare(half()) == 0
    document = read_json(Path("masks.json"), "")
    flips = [picture["flips"] for picture in document["pictures"]]
    assert flips == [5, 5, 5]
    assert (document["kind"], document["flips"], document["required"]) == ("masks", 15, 0.995)
    assert document["agreement"] == 1 - 15 / document["pixels"]
    margins = [FakeRunner().run(picture.image[None]).margin for picture in made_up(3)]
    widest = max(float(margin[0, 0, :5].max()) for margin in margins if margin is not None)
    assert document["widest_flip_margin"] == pytest.approx(widest)
    assert f"(15 do not, the widest margin among them {widest:.3g})" in capsys.readouterr().out
    assert compare(half(), "--limit", "2") == 0
    assert len(read_json(Path("masks.json"), "")["pictures"]) == 2


def test_what_was_compared_before_the_end_is_in_the_file(
    compare: Compare, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(BaseException):
        """A process that is ended."""

    seen = []

    def third_is_the_last(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        seen.append(images)
        if len(seen) == 3:
            raise CutOffError
        return outputs

    monkeypatch.setattr(script, "WRITTEN_EVERY", 2)
    with pytest.raises(CutOffError):
        compare(FakeRunner(bug=third_is_the_last, precision=Precision.FP16, outputs=("mask",)))
    document = read_json(Path("masks.json"), "")
    assert (len(document["pictures"]), document["pictures_asked"]) == (2, 3)
    assert document["pixels"] == sum(images[..., 0].size for images in seen[:2])


def test_equal_masks_have_no_flip(compare: Compare) -> None:
    assert compare(FakeRunner(precision=Precision.FP16, outputs=("mask",))) == 0
    document = read_json(Path("masks.json"), "")
    assert (document["flips"], document["agreement"], document["widest_flip_margin"]) == (0, 1, 0)


def test_masks_of_something_else_fail(compare: Compare) -> None:
    swapped = FakeRunner(
        see=lambda images: np.ascontiguousarray(images[..., ::-1]), precision=Precision.FP16
    )
    assert compare(swapped) == 1
    assert read_json(Path("masks.json"), "")["agreement"] < 0.995


def test_masks_of_another_network_are_refused(compare: Compare) -> None:
    with pytest.raises(InputError, match="another checkpoint"):
        compare(FakeRunner(precision=Precision.FP16, checkpoint_digest="sha256:other"))


class EngineOnGpu(FakeRunner):
    """A runner that goes by the description of an engine on a GPU."""

    def __init__(self, tail: str, **options: Any) -> None:
        super().__init__(precision=Precision.FP16, outputs=("mask",), **options)
        self._tail = tail

    def describe(self) -> RunnerDescription:
        checkpoint = super().describe().checkpoint_digest
        return replace(on_gpu("trt"), checkpoint_digest=checkpoint, tail=self._tail)


@pytest.mark.parametrize(
    ("tail", "what", "other"),
    [
        ("early-argmax", "masks alone of `trt` FP16", "the same of the engine whose argmax"),
        ("tournament", "the same of the engine whose argmax", "masks alone of `trt` FP16"),
    ],
)
def test_the_page_shows_the_file_as_it_was_written(
    script: ModuleType, compare: Compare, tail: str, what: str, other: str
) -> None:
    assert script.MASKS_SCHEMA == MASKS_SCHEMA
    pixels = len(made_up(3)) * made_up(3)[0].image[..., 0].size
    assert compare(EngineOnGpu(tail)) == 0
    assert result_of(Path(), what) == (
        f"100% of {pixels / 1e6:.2f} million pixels agree, required 99.5%: reached; 0 flips, the "
        "widest margin among them 0"
    )
    assert result_of(Path(), other) == NOT_MEASURED
    assert result_of(Path(), "`trt` FP16") == NOT_MEASURED  # that is no gate
    swapped = EngineOnGpu(tail, see=lambda images: np.ascontiguousarray(images[..., ::-1]))
    assert compare(swapped) == 1
    assert "required 99.5%: MISSED; " in result_of(Path(), what)
