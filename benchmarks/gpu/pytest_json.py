"""Runs pytest and writes what became of each test, with the GPU it ran on.

    python benchmarks/gpu/pytest_json.py JSON PYTEST-ARGUMENT …

For example ``-m gpu -rs tests/runners/test_trt_gpu.py``.  The exit code is pytest's.  JSON, kind
"tests", schema 1, is read by ``benchmarks/gpu_page/results.py``:

    gpu        {name}, and where cuda-bindings is installed {compute_capability, driver, memory_mib}
    libraries  [name and version] of TensorRT, PyTorch and ONNX Runtime, where they are installed
    exit_code  pytest's; until it has ended that of an interrupted one, 2
    running    the test that had begun and not ended, or null
    outcomes   [{name, outcome: "passed" | "failed" | "skipped", reason | null}]

It is written anew with each outcome, so that a test that hangs costs none of those before it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import BackendError, FcnDeployError
from fcn_deploy.core.files import probe, write_json
from fcn_deploy.machine import cuda
from fcn_deploy.results.environment import Environment
from fcn_deploy.tensorrt import api

TESTS_SCHEMA = 1
#: Distribution, and what people call it; the first one that is installed counts.
_LIBRARIES = (
    ("torch", "PyTorch"), ("onnxruntime-gpu", "ONNX Runtime"), ("onnxruntime", "ONNX Runtime"),
)  # fmt: skip


class Recorder:
    """A plugin of pytest that keeps the outcome of every test.

    Args:
        changed: called whenever a test begins or has an outcome.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.running: str | None = None
        self._changed = changed

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Keep which test runs, for the case that it never ends."""
        self.running = nodeid
        self._changed()

    def pytest_runtest_logfinish(self) -> None:
        """Forget it: it has ended."""
        self.running = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of the call; of setting up and taking down only what is no pass."""
        if report.when == "call" or report.outcome != "passed":
            skipped = report.outcome == "skipped"
            self.outcomes[report.nodeid] = {
                "name": report.nodeid,
                "outcome": report.outcome,
                "reason": _reason(report) if skipped else None,
            }
            self._changed()


def _reason(report: pytest.TestReport) -> str:
    """Return why a test was skipped: pytest gives (file, line, words)."""
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return words.removeprefix("Skipped: ")


def libraries(versions: Mapping[str, str]) -> list[str]:
    """Return name and version of what is tested, as far as it is installed."""
    named: dict[str, str] = {}
    for distribution, name in _LIBRARIES:
        if distribution in versions:
            named.setdefault(name, f"{name} {versions[distribution]}")
    try:
        return [api.load(api.choose_product("auto")).label, *named.values()]
    except FcnDeployError:  # not installed
        return [*named.values()]


def gpu() -> dict[str, Any]:
    """Return what is known of the GPU; PyTorch is asked where ``cuda-bindings`` is missing.

    Raises:
        BackendError: there is no GPU, or no way to ask it.
    """
    try:
        return vars(cuda.describe_gpu())
    except BackendError:
        if importlib.util.find_spec("torch") is None:
            raise
        import torch

        if not torch.cuda.is_available():
            raise
        return {"name": torch.cuda.get_device_name()}


def main(arguments: Sequence[str]) -> int:
    target, *words = arguments
    path = Path(target).absolute()  # tests change the folder
    probe(path)
    environment = Environment.current()
    document = {
        **environment.to_json("tests", TESTS_SCHEMA),
        "gpu": gpu(),
        "libraries": libraries(environment.versions),
    }

    def write(code: int = pytest.ExitCode.INTERRUPTED) -> None:
        outcomes = [*recorder.outcomes.values()]
        further = {"exit_code": int(code), "running": recorder.running, "outcomes": outcomes}
        write_json(path, document | further)

    recorder = Recorder(write)
    code = int(pytest.main(words, plugins=[recorder]))
    write(code)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FcnDeployError as error:
        print(f"pytest_json: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
