"""What is left of a run of pytest that was cut off."""

from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.files import read_json
from tests.benchmarks.gpu_scripts import load_script


def test_a_test_that_hangs_costs_no_outcome_of_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(BaseException):
        """A process that is ended."""

    script = load_script("pytest_json")
    monkeypatch.setattr(script, "gpu", lambda: {"name": "NVIDIA H200"})
    monkeypatch.setattr(script, "libraries", lambda versions: [])

    def run(arguments: list[str], plugins: list[Any]) -> int:
        (recorder,) = plugins
        monkeypatch.chdir(tmp_path / "elsewhere")  # as tests do
        for name, outcome in (("test_a", "passed"), ("test_b", "failed")):
            recorder.pytest_runtest_logstart(name)
            for when in ("setup", "call", "teardown"):
                told: Any = outcome if when == "call" else "passed"
                report: Any = pytest.TestReport(name, ("", 0, ""), {}, told, None, when)
                recorder.pytest_runtest_logreport(report)
            recorder.pytest_runtest_logfinish()
        recorder.pytest_runtest_logstart("test_hangs")
        raise CutOffError

    monkeypatch.setattr(script.pytest, "main", run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CutOffError):
        script.main(["tests.json"])
    document = read_json(tmp_path / "tests.json", "")
    outcomes = [(outcome["name"], outcome["outcome"]) for outcome in document["outcomes"]]
    assert outcomes == [("test_a", "passed"), ("test_b", "failed")]
    assert document["running"] == "test_hangs"
    assert document["exit_code"] == pytest.ExitCode.INTERRUPTED
