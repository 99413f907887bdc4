"""The script that asks TensorRT what its documents leave open, on fakes."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fcn_deploy.core.files import read_json
from fcn_deploy.core.spec import Precision
from tests.benchmarks.gpu_scripts import load_script
from tests.tensorrt_fixtures import FakeMachine, install, write_onnx


@pytest.fixture
def script() -> ModuleType:
    return load_script("probe")


@pytest.fixture(params=["8.6.0", "10.16.1"])
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeMachine:
    monkeypatch.chdir(tmp_path)
    write_onnx(Path("model.onnx"))
    write_onnx(Path("model.fp16.onnx"), Precision.FP16)
    write_onnx(Path("model.odd.onnx"), node="Unheard")
    return install(monkeypatch, request.param)


def asked(script: ModuleType) -> dict[str, Any]:
    script.main(["probe.json", "model.onnx", "model.fp16.onnx", "model.odd.onnx"])
    document = read_json(Path("probe.json"), "")
    assert document["running"] is None
    return dict(document["answers"])


def test_every_question_is_answered(script: ModuleType, machine: FakeMachine) -> None:
    answers = asked(script)
    old = machine.release == "8.6.0"
    assert answers["parse model.fp16.onnx"]["answer"] == {"parsed": True, "problems": []}
    odd = answers["parse model.odd.onnx"]["answer"]
    assert not odd["parsed"]
    assert odd["problems"][0]["description"].startswith("no importer")
    built = answers["build, profiles shared"]["answer"]
    assert built["plan_bytes"] > 28
    assert built["timing_cache_bytes"] > 0
    assert ("FP16" in built["flags"], "PROFILE_SHARING_0806" in built["flags"]) == (old, old)
    assert answers["plan's header"]["answer"]["text"].startswith("ftrt")
    assert answers["engine"]["answer"]["loaded"]
    without, with_one = (
        answers[f"inspector {words} a context"]["answer"] for words in ("without", "with")
    )
    assert ("N/A due to dynamic shapes" in without, "N/A" in with_one) == (old, False)
    pixels = answers["run"]["answer"]["pixels_by_class"]
    assert sum(pixels) == 64 * 96
    assert answers["run"]["answer"]["same_again"]
    shared = answers["two contexts, profiles shared"]["answer"]
    assert [context["pixels_by_class"] for context in shared] == [pixels, pixels]
    assert answers["capture after synchronising"]["answer"]["same_masks"]
    memory = answers["memory in use over contexts, KiB"]["answer"]
    assert list(memory) == ["0", "10", "20", "30", "40", "50"]
    # The second build begins with the timings of the first; 8.6 gives a profile to one context.
    again = answers["build, profiles not shared"]["answer"]
    assert again["timing_cache_before_bytes"] == built["timing_cache_bytes"]
    assert again["timing_cache_taken"]
    first, second = answers["two contexts, profiles not shared"]["answer"]
    assert first["pixels_by_class"] == pixels
    assert ("RuntimeError" in str(second["profile_set"])) == old
    ours = answers["by this package"]["answer"]
    assert ours["same_masks"]
    assert ours["layers"] == {"fp16": 1}
    assert set(machine.cuda.held().values()) == {0}


def test_an_answer_that_is_an_exception_stops_no_other_question(
    script: ModuleType, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> None:
        raise RuntimeError("no such call")

    monkeypatch.setattr(script.SmallEngine, "run", fails)
    answers = asked(script)
    assert answers["run"]["raised"] == "RuntimeError: no such call"
    assert answers["by this package"]["answer"]["same_masks"]


def test_a_call_that_ends_the_process_is_named(
    script: ModuleType, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EndedError(BaseException):
        """The process has ended."""

    def ends(self: object) -> None:
        raise EndedError

    monkeypatch.setattr(script.SmallEngine, "load", ends)
    with pytest.raises(EndedError):
        asked(script)
    document = read_json(Path("probe.json"), "")
    assert document["running"] == "engine"
    assert "plan's header" in document["answers"]
