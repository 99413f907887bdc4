"""``build`` as it is typed: what it refuses, in one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from fcn_deploy.core.errors import MissingExtraError
from fcn_deploy.tensorrt import api
from tests.command_line import run_command
from tests.tensorrt_fixtures import write_onnx


def test_the_command_without_tensorrt_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(api, "is_installed", lambda product: False)
    write_onnx(tmp_path / "model.onnx")
    from fcn_deploy.cli import fcn_deploy as command

    result = CliRunner().invoke(command, ["build", str(tmp_path)])
    assert isinstance(result.exception, MissingExtraError)
    assert "pip install 'fcn-deploy[trt]'" in str(result.exception)
    assert result.exception.exit_code == 2


def test_a_profile_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    code, _, complaint = run_command("build", str(tmp_path), "--profile", "1x2:3")
    assert code == 2
    assert "is no profile" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--workspace", "99999999999999999999"), "1<=x<=1048576"),
        (("--profile", "1x1x1:1x1x1:1x1x2147483648"), "1x1x1:1x1x1:1x1x2147483648 is too large"),
        (("--compute-capability", "nonsense"), "'nonsense' is no compute capability"),
        (("--compute-capability", ","), "'' is no compute capability"),
    ],
)
def test_typed_nonsense_is_no_bug_of_ours(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import main

    write_onnx(tmp_path / "model.onnx")
    with pytest.raises(SystemExit) as left:
        main(["build", str(tmp_path), *words])
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert complaint in said
    assert len(said.splitlines()) == 1


def test_an_engine_is_nothing_to_build_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcn_deploy.cli import main

    write_onnx(tmp_path / "model.onnx")
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"ftrt")
    with pytest.raises(SystemExit) as left:
        main(["build", str(plan)])
    assert left.value.code == 2
    assert f"{plan} is an engine already; give a run or an ONNX file" in capsys.readouterr().err
