"""Offline streams: the same batches at both tiers, decoded while others are computed."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.inputs import Inputs, make_inputs
from fcn_deploy.bench.scenarios import Meter, Offline, Repeat, Scenario, TimedLoop
from fcn_deploy.core.errors import MaskMismatchError
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.scenarios import END_TO_END, HOST
from fcn_deploy.runners.base import Outputs
from tests.bench.measuring import measure, random_inputs
from tests.decoding import PATIENCE, Read, living_threads
from tests.fakes import FakeRunner, OneBehind


@pytest.mark.parametrize("tier", [HOST, END_TO_END])
def test_offline_runs_the_same_batches_at_both_tiers(tmp_path: Path, tier: str) -> None:
    inputs = random_inputs(tmp_path, 8)
    seen: list[NDArray[np.uint8]] = []
    runner = FakeRunner(see=lambda images: (seen.append(images), images)[1])
    case = Case(runner, tier, 4, inputs, tmp_path)
    asked = [7, 0, 3, 3, 1, 2, 6, 5, 4, 0]
    assert list(case.stream(asked)) == [4, 4, 2]
    assert (np.concatenate(seen) == inputs.images[asked]).all()
    assert not living_threads()


def test_offline_decodes_the_next_batch_while_one_is_computed(
    tmp_path: Path, read_by: Callable[[Read], None]
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    begun = [threading.Event() for _ in inputs.files]

    def read(path: Path) -> NDArray[np.uint8]:
        number = inputs.files.index(path)
        begun[number].set()
        return inputs.images[number]

    def see(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # "Computing" ends only after the decoding of the next batch has begun.
        next_batch = 2 * len(runner.shapes)
        assert next_batch >= len(begun) or begun[next_batch].wait(PATIENCE)
        return images

    read_by(read)
    runner = FakeRunner(see=see)
    case = Case(runner, END_TO_END, 2, inputs, tmp_path)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_offline_decodes_on_as_many_threads_as_are_pinned(
    tmp_path: Path, read_by: Callable[[Read], None], threads: int
) -> None:
    inputs = make_inputs([np.zeros((20, 30, 3), np.uint8)], (24, 32), tmp_path)
    decoders: set[int] = set()
    together = threading.Barrier(threads)

    def read(path: Path) -> NDArray[np.uint8]:
        decoders.add(threading.get_ident())
        if inputs.files.index(path) < threads:
            together.wait(PATIENCE)  # none of them may do the work of two
        return inputs.images[inputs.files.index(path)]

    read_by(read)
    case = Case(FakeRunner(), END_TO_END, 2, inputs, tmp_path, threads)
    assert list(case.stream(range(8))) == [2, 2, 2, 2]
    assert len(decoders) == threads


# -- masks of what is timed ---------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return random_inputs(tmp_path, 8)


@pytest.mark.parametrize("tier", [HOST, END_TO_END])
def test_masks_of_a_stream_are_those_of_single_runs(
    tmp_path: Path, tier: str, inputs: Inputs
) -> None:
    case = Case(FakeRunner(), tier, 2, inputs, tmp_path)
    list(case.stream([5, 0, 3, 1, 7, 2, 4, 6, 0]))
    case.query(3)
    case.answer([1, 6])
    case.samples.check(case)
    wrong = Case(OneBehind(backend="late"), tier, 2, inputs, tmp_path)
    list(wrong.stream([5, 0, 3, 1, 7, 2, 4, 6, 0]))
    with pytest.raises(MaskMismatchError, match=r"^late fp32 .* not those of a single run") as said:
        wrong.samples.check(wrong)
    assert said.value.repair == "run `fcn-deploy parity --backend late`, which tells the cause"
    wrong.samples.check(wrong)  # what was wrong is forgotten: the next repeat speaks for itself


@pytest.mark.parametrize(
    ("device", "precision", "allowed"),
    [
        ("cpu", Precision.FP32, 0),
        ("cpu", Precision.FP16, 0),
        ("cuda:0 (card)", Precision.FP32, 1),  # of 12,288 pixels
        ("cuda:0 (card)", Precision.FP16, 12),
    ],
)
def test_few_pixels_may_differ_on_a_gpu(
    tmp_path: Path, device: str, precision: Precision, allowed: int, inputs: Inputs
) -> None:
    case = Case(FakeRunner(device=device, precision=precision), HOST, 8, inputs, tmp_path)
    right = case.runner.run(inputs.batch(range(8))).mask
    for flips in (allowed, allowed + 1):
        wrong = right.copy()
        wrong[3, 4, :flips] = (wrong[3, 4, :flips] + 1) % 5
        case.samples.keep(range(8), right)
        case.samples.keep(range(8), wrong)
        if flips > allowed:
            with pytest.raises(MaskMismatchError, match=f"{flips} of 12,288"):
                case.samples.check(case)
        else:
            case.samples.check(case)


@pytest.mark.parametrize(
    ("backend", "precision", "command"),
    [
        ("trt", Precision.FP16, "parity --backend trt --fp16`"),
        ("ort", Precision.INT8, "parity --backend ort --int8`"),
        ("openvino-bf16", Precision.BF16, "parity --backend openvino-bf16`"),
        ("baseline", Precision.FP32, None),
        ("peer:plain", Precision.FP32, None),
    ],
)
def test_the_advice_is_a_command_that_parity_takes(
    tmp_path: Path, inputs: Inputs, backend: str, precision: Precision, command: str | None
) -> None:
    case = Case(FakeRunner(backend=backend, precision=precision), HOST, 1, inputs, tmp_path)
    case.samples.keep([0], case.runner.run(inputs.batch([0])).mask + np.uint8(1))
    with pytest.raises(MaskMismatchError) as said:
        case.samples.check(case)
    if command is None:
        assert said.value.repair is None
    else:
        assert command in str(said.value)


def test_every_batch_is_as_likely_to_be_kept(tmp_path: Path, inputs: Inputs) -> None:
    case, masks = Case(FakeRunner(), HOST, 1, inputs, tmp_path), np.zeros((1, 24, 32), np.uint8)
    kept = np.zeros(40)
    for _ in range(500):
        for number in range(40):
            case.samples.keep([number], masks)
        for (number,), _ in case.samples._kept:
            kept[number] += 1
        case.samples._kept.clear()
        case.samples._seen = 0
    assert kept.sum() == 500 * 4
    assert kept.min() > 20  # of 50 expected


@pytest.mark.parametrize("scenario", [TimedLoop(0.01), Offline(0.01)])
def test_a_row_whose_masks_are_wrong_is_left_out(
    tmp_path: Path, scenario: Scenario, inputs: Inputs
) -> None:
    def unsteady(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        return replace(outputs, mask=outputs.mask + np.uint8(len(wrong.shapes) % 2))

    dropped: list[str] = []
    wrong = FakeRunner(backend="wrong", bug=unsteady)
    rows = measure(
        [FakeRunner(backend="right"), wrong],
        [inputs],
        [1],
        scenario,
        tmp_path,
        on_dropped=dropped.append,
    )
    assert [row.runner.backend for row in rows] == ["right"]
    assert "are not those of a single run" in dropped[0]


def test_wrong_masks_in_one_repeat_cost_the_row(tmp_path: Path, inputs: Inputs) -> None:
    class WrongOnce(TimedLoop):
        turns = 0

        def repeat(self, case: Case, meter: Meter) -> Repeat:
            found = super().repeat(case, meter)
            if case.runner.describe().backend == "wrong":
                self.turns += 1
                if self.turns == 4:
                    case.samples._seen = 0  # so that the next is kept
                    case.samples.keep([0], case.runner.run(inputs.batch([0])).mask + np.uint8(1))
            return found

    scenario, dropped = WrongOnce(1e-9), list[str]()
    rows = measure(
        [FakeRunner(backend="right"), FakeRunner(backend="wrong")],
        [inputs],
        [1],
        scenario,
        tmp_path,
        repeats=7,
        on_dropped=dropped.append,
    )
    assert [(row.runner.backend, len(row.repeats_ms)) for row in rows] == [("right", 7)]
    assert scenario.turns == 4
    (why,) = dropped
    assert why.startswith("wrong fp32 host 1×24×32: the masks that were timed are not those")
    assert why.endswith(
        "in repeat 4 of 7; run `fcn-deploy parity --backend wrong`, which tells the cause; "
        "the row is left out"
    )
