"""A run directory: what stands for it, and the command that a missing stage names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.run import DEFAULT_RUN, Run
from fcn_deploy.core.spec import Precision

OneLine = Callable[[Exception], str]


def test_no_argument_is_the_default_run() -> None:
    run = Run.from_argument(None)
    assert run == Run(Path("runs/fcn"))
    assert run.root == DEFAULT_RUN


@pytest.mark.parametrize("kind", [str, Path])
def test_a_directory_is_a_run(tmp_path: Path, kind: type) -> None:
    run = Run.from_argument(kind(tmp_path))
    assert run == Run(tmp_path)
    assert run.checkpoint == tmp_path / "model.safetensors"
    assert run.onnx(Precision.FP32) == tmp_path / "model.onnx"
    assert run.onnx(Precision.FP16) == tmp_path / "model.fp16.onnx"


def test_a_named_file_stands_for_the_runs_own(tmp_path: Path) -> None:
    for name in ("best.safetensors", "small.onnx"):
        (tmp_path / name).touch()
    named_checkpoint = Run.from_argument(tmp_path / "best.safetensors")
    assert named_checkpoint.root == tmp_path
    assert named_checkpoint.require_checkpoint() == tmp_path / "best.safetensors"
    assert named_checkpoint.onnx(Precision.FP32) == tmp_path / "model.onnx"
    named_onnx = Run.from_argument(str(tmp_path / "small.onnx"))
    assert named_onnx.require_onnx(Precision.FP32) == tmp_path / "small.onnx"
    assert named_onnx.checkpoint == tmp_path / "model.safetensors"


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "cat.jpg", "notes"])
def test_a_file_that_is_no_model_is_not_passed_over(
    tmp_path: Path, name: str, one_line: OneLine
) -> None:
    # Its neighbours must not be taken in its place.
    for neighbour in ("model.safetensors", "model.onnx", name):
        (tmp_path / neighbour).touch()
    with pytest.raises(ArtifactError) as caught:
        Run.from_argument(tmp_path / name)
    text = one_line(caught.value)
    assert str(tmp_path / name) in text
    assert ".safetensors" in text


def test_no_such_run_names_the_training_command(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(MissingStageError) as caught:
        Run.from_argument(tmp_path / "nowhere")
    assert f"`fcn-deploy train --out {tmp_path / 'nowhere'}`" in one_line(caught.value)


def test_no_checkpoint_names_the_training_command(tmp_path: Path, one_line: OneLine) -> None:
    with pytest.raises(MissingStageError) as caught:
        Run(tmp_path).require_checkpoint()
    assert str(tmp_path / "model.safetensors") in one_line(caught.value)
    assert f"`fcn-deploy train --out {tmp_path}`" in one_line(caught.value)


@pytest.mark.parametrize(("precision", "flag"), [(Precision.FP32, ""), (Precision.FP16, " --fp16")])
def test_no_onnx_file_names_the_export_command(
    tmp_path: Path, precision: Precision, flag: str, one_line: OneLine
) -> None:
    with pytest.raises(MissingStageError) as caught:
        Run(tmp_path).require_onnx(precision)
    assert f"`fcn-deploy export {tmp_path}{flag}`" in one_line(caught.value)


def test_in_the_default_run_the_commands_are_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingStageError, match="`fcn-deploy train` first"):
        Run.from_argument(None).require_checkpoint()
    with pytest.raises(MissingStageError, match="`fcn-deploy export` first"):
        Run.from_argument(None).require_onnx(Precision.FP32)
    with pytest.raises(MissingStageError, match="`fcn-deploy export --fp16` first"):
        Run.from_argument(None).require_onnx(Precision.FP16)


def test_commands_quote_what_a_shell_would_split(tmp_path: Path, one_line: OneLine) -> None:
    run = Run(tmp_path / "my run")
    assert run.command_suffix == f" '{run.root}'"
    assert run.out_option == f" --out '{run.root}'"
    with pytest.raises(MissingStageError, match="--out '") as caught:
        run.require_checkpoint()
    assert f"`fcn-deploy train --out '{run.root}'`" in one_line(caught.value)
    with pytest.raises(MissingStageError, match="--out '"):
        Run.from_argument(run.root)
