"""``build`` as it is typed: what it refuses, in one line."""

from pathlib import Path

import pytest

from fcn_deploy.tensorrt import api
from tests.command_line import FcnDeploy, refused
from tests.tensorrt_fixtures import write_onnx


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_onnx(tmp_path / "model.onnx")
    return tmp_path


def test_the_command_without_tensorrt_says_what_to_install(
    fcn_deploy: FcnDeploy, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "is_installed", lambda product: False)
    refused(fcn_deploy("build", run), "pip install 'fcn-deploy[trt]'")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--profile", "1x2:3"), "is no profile"),
        (("--workspace", "99999999999999999999"), "1<=x<=1048576"),
        (("--profile", "1x1x1:1x1x1:1x1x2147483648"), "1x1x1:1x1x1:1x1x2147483648 is too large"),
        (("--compute-capability", "nonsense"), "'nonsense' is no compute capability"),
        (("--compute-capability", ","), "'' is no compute capability"),
    ],
)
def test_typed_nonsense_is_no_bug_of_ours(
    fcn_deploy: FcnDeploy, run: Path, words: tuple[str, ...], complaint: str
) -> None:
    refused(fcn_deploy("build", run, *words), complaint)


def test_an_engine_is_nothing_to_build_from(fcn_deploy: FcnDeploy, run: Path) -> None:
    plan = run / "x.plan"
    plan.write_bytes(b"ftrt")
    refused(fcn_deploy("build", plan), f"{plan} is an engine already; give a run or an ONNX file")
