"""Networks that OpenVINO compiled: held to what they were asked for, and few of them kept."""

from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import open_runner
from fcn_deploy.runners.openvino import compiled as compiled_openvino
from fcn_deploy.runners.openvino.compiled import KEPT_SHAPES
from fcn_deploy.runners.openvino.runner import OpenVinoRunner
from tests.runners.contract import pictures
from tests.runners.openvino.arithmetic import require

openvino = pytest.importorskip("openvino")


def test_products_that_are_none_are_refused(tiny_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    require("openvino-int8x3")
    # As where OpenVINO computes them in float32, which would be slow and would pass every gate.
    monkeypatch.setitem(compiled_openvino._KERNEL_TYPES, Precision.INT8, "none")
    with (
        open_runner(tiny_run, "openvino-int8x3", threads=1) as runner,
        pytest.raises(
            BackendError,
            match=r"asked for 48 int8 convolutions and computes .* 48 in i8; pip install -U",
        ),
    ):
        runner.run(pictures(1, 48, 64))


def test_a_setting_that_was_not_taken_is_no_silent_fallback(tiny_run: Run) -> None:
    # OpenVINO takes as many threads as there are cores, whatever it is asked for.
    with (
        open_runner(tiny_run, "openvino", threads=100_000) as runner,
        pytest.raises(BackendError, match=r"INFERENCE_NUM_THREADS 100000 and took \d+; use --thr"),
    ):
        runner.run(pictures(1, 8, 8))


def test_another_precision_than_asked_for_is_refused(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a CPU that says it had bfloat16 and computes in float32 nevertheless.
    compiled = openvino.CompiledModel

    def read_back(self: Any, name: str) -> Any:
        if name == "INFERENCE_PRECISION_HINT":
            return openvino.Type.bf16
        return original(self, name)

    original = compiled.get_property
    monkeypatch.setattr(compiled, "get_property", read_back)
    with (
        open_runner(tiny_run, "openvino", threads=1) as runner,
        pytest.raises(BackendError, match="PRECISION_HINT f32 and took bf16"),
    ):
        runner.run(pictures(1, 8, 8))


def test_convolutions_of_another_type_are_refused(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(compiled_openvino._KERNEL_TYPES, Precision.FP32, "bf16")
    with (
        open_runner(tiny_run, "openvino", threads=1) as runner,
        pytest.raises(
            BackendError, match=r"asked for (\d+) fp32 convolutions and computes \1 in f32"
        ),
    ):
        runner.run(pictures(1, 8, 8))


def test_only_the_last_shapes_stay_compiled(tiny_run: Run) -> None:
    with open_runner(tiny_run, "openvino", threads=1) as runner:
        assert isinstance(runner, OpenVinoRunner)
        assert runner._network is not None
        kept = runner._network._compiled
        masks = {}
        for width in range(1, KEPT_SHAPES + 3):
            masks[width] = runner.run(pictures(1, 16, width)).mask
            assert len(kept) <= KEPT_SHAPES
        assert [shape[2] for shape in kept] == list(range(3, KEPT_SHAPES + 3))
        runner.run(pictures(1, 16, 3))  # asked for again: now it is the last one to go
        np.testing.assert_array_equal(runner.run(pictures(1, 16, 1)).mask, masks[1])
        assert (1, 16, 3, 3) in kept
        assert (1, 16, 4, 3) not in kept


def test_as_many_shapes_are_kept_as_are_asked_for(tiny_run: Run) -> None:
    with open_runner(tiny_run, "openvino", threads=1) as runner:
        assert isinstance(runner, OpenVinoRunner)
        assert runner._network is not None
        runner.reserve_shapes(KEPT_SHAPES + 2)
        for width in range(1, KEPT_SHAPES + 4):
            runner.run(pictures(1, 16, width))
        assert len(runner._network._compiled) == KEPT_SHAPES + 2
        runner.reserve_shapes(1)
        assert runner._network.kept_shapes == KEPT_SHAPES
