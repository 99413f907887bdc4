"""Paths and names on the command line: what a shell completes, and where ``~`` leads."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from fcn_deploy import cli
from fcn_deploy.commands.shared.options import PathText, PathType
from fcn_deploy.runners.base import BACKENDS
from tests.command_line import FcnDeploy, refused


def offered(*words: str) -> list[tuple[str, str]]:
    """Return type and text of what a shell is offered for the last word."""
    shell = ShellComplete(cli.fcn_deploy, {}, "fcn-deploy", "_FCN_DEPLOY_COMPLETE")
    *before, incomplete = words
    return [(item.type, item.value) for item in shell.get_completions(before, incomplete)]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("export", "ru"), "file"),
        (("build", "ru"), "file"),
        (("bench", "ru"), "file"),
        (("predict", "ru"), "file"),
        (("predict", "runs/fcn", "pho"), "file"),
        (("predict", "--out", "ma"), "dir"),
        (("evaluate", "ru"), "file"),
        (("evaluate", "--data", "da"), "dir"),
        (("report", "a.json", "b"), "file"),
        (("train", "--data", "da"), "dir"),
        (("train", "--out", "ru"), "dir"),
        (("train", "--weights", "mo"), "file"),
        (("export", "--calibration", "da"), "dir"),
        (("build", "--plan-from", "da"), "dir"),
        (("data", "check", "da"), "dir"),
        (("import", "torchvision:fcn_resnet50", "--out", "ru"), "dir"),
    ],
)
def test_files_and_folders_are_left_to_the_shell(words: tuple[str, ...], kind: str) -> None:
    assert offered(*words) == [(kind, words[-1])]


def test_words_that_stand_for_data_are_offered_beside_folders() -> None:
    assert offered("train", "--data", "sy") == [("dir", "sy"), ("plain", "synthetic")]
    assert offered("train", "--weights", "im") == [("file", "im"), ("plain", "imagenet")]
    assert offered("train", "--data", "") == [("dir", "")]


def test_backends_are_offered_by_name() -> None:
    names = [name for name in BACKENDS if name.startswith("op")]
    assert len(names) > 1
    assert offered("predict", "--backend", "op") == [("plain", name) for name in names]
    assert [name for _, name in offered("bench", "--backend", "")] == list(BACKENDS)
    assert [name for _, name in offered("predict", "--backend", "")] == ["auto", *BACKENDS]


def test_the_usual_lists_are_offered_by_name() -> None:
    assert offered("evaluate", "--split", "t") == [("plain", "test"), ("plain", "train")]


def test_a_shell_gets_its_completion_without_heavy_imports() -> None:
    code = (
        "import os, sys\n"
        "os.environ.update(_FCN_DEPLOY_COMPLETE='bash_complete', COMP_CWORD='3',\n"
        "    COMP_WORDS='fcn-deploy predict --backend nc')\n"
        "from fcn_deploy.cli import main\n"
        "try: main([])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "plain,ncnn\n"), done.stderr


def converted(kind: PathType, word: str) -> object:
    return kind.convert(word, None, None)


def test_the_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert converted(PathType(), "~/masks") == tmp_path / "masks"
    assert converted(PathText("synthetic"), "~/data") == str(tmp_path / "data")
    for plain in ("a/~/b", "./a", "synthetic", "~nobody-of-that-name/a"):
        assert converted(PathText("synthetic"), plain) == plain


def test_no_folder_is_named_after_the_home_directory(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    fcn_deploy("scenes", "~/data", "--train", "1", "--val", "1", "--size", "32x32").succeeded()
    assert (home / "data" / "JPEGImages").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    refused(fcn_deploy("predict", "~/runs/none", "a.jpg"), f"no run {home}/runs/none")


def test_no_command_takes_a_path_that_keeps_its_tilde() -> None:
    for name, command in cli.fcn_deploy.commands.items():
        kinds = {param.name: type(param.type) for param in command.params}
        assert click.Path not in kinds.values(), (name, kinds)
