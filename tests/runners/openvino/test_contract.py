"""OpenVINO keeps the contract of all runners in each arithmetic, and in lanes."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.spec import Precision
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.runners.base import Runner, open_runner
from fcn_deploy.runners.cpu_streams import LANES
from fcn_deploy.runners.openvino import compiled as compiled_openvino
from tests.runners.contract import LanesContract, RunnerContract
from tests.runners.openvino.arithmetic import require

pytest.importorskip("openvino")


class TestOpenVinoRunner(RunnerContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "openvino", outputs=outputs, threads=1)


class TestOpenVinoRunnerBf16(TestOpenVinoRunner):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        require("openvino-bf16")
        return open_runner(self.run_directory, "openvino-bf16", outputs=outputs, threads=1)


class TestOpenVinoRunnerInt8x3(TestOpenVinoRunner):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        require("openvino-int8x3")
        return open_runner(self.run_directory, "openvino-int8x3", outputs=outputs, threads=1)


class TestOpenVinoRunnerFp16(TestOpenVinoRunner):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        require("openvino", Precision.FP16)
        return open_runner(
            self.run_directory, "openvino", precision=Precision.FP16, outputs=outputs, threads=1
        )


class TestOpenVinoRunnerInLanes(LanesContract):
    @pytest.fixture(autouse=True)
    def _few_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if usable_cores() < LANES:
            # OpenVINO reports what the machine has; the order of the answers is the same.
            monkeypatch.setattr(compiled_openvino.Network, "_compile", _compile_unchecked)

    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "openvino", outputs=outputs, threads=LANES)

    def fail_at(self, width: int, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        super().fail_at(width, runner, monkeypatch)
        finish = compiled_openvino.Requests.finish

        def failing(self: Any, request: Any) -> NDArray[np.uint8]:
            if request[0][2] == width:
                raise RuntimeError("out of luck")
            return finish(self, request)

        monkeypatch.setattr(compiled_openvino.Requests, "finish", failing)


def _compile_unchecked(self: Any, shape: tuple[int, ...]) -> Any:
    graph = self._graph.clone()
    graph.reshape(list(shape))
    return self._core.compile_model(graph, "CPU", dict(self._settings))
