"""Every error is one line with an exit code, whatever a library put into its message."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.core import errors
from fcn_deploy.core.errors import (
    ArtifactError,
    BuildError,
    DataError,
    ExportError,
    FcnDeployError,
    ImageError,
    InputError,
    MissingExtraError,
    MissingStageError,
    TrainingStoppedError,
)


def whole_tree(root: type[FcnDeployError] = FcnDeployError) -> Iterator[type[FcnDeployError]]:
    yield root
    for child in root.__subclasses__():
        yield from whole_tree(child)


#: A package that is imported may have errors of its own.
TREE = [kind for kind in whole_tree() if kind.__module__ == errors.__name__]
#: Those that are made of a message and a repair.
WORDED = [kind for kind in TREE if kind is not MissingExtraError]


@given(
    kind=st.sampled_from(WORDED),
    message=st.text(min_size=1),
    repair=st.none() | st.text(min_size=1),
)
def test_an_error_reads_as_one_line(
    kind: type[FcnDeployError], message: str, repair: str | None
) -> None:
    error = kind(message, repair)
    text = str(error)
    assert len(text.splitlines()) <= 1
    assert text == text.strip()
    # No word is lost.
    assert text.split() == (message if repair is None else f"{message}; {repair}").split()
    assert error.message == message
    assert error.repair == repair


@pytest.mark.parametrize("kind", WORDED)
def test_exit_codes(kind: type[FcnDeployError]) -> None:
    # 2: what the user gave cannot be used.  1: the work was done and its own check failed.
    # 130: a signal asked for an end, as shells have it.
    expected = {ExportError: 1, BuildError: 1, TrainingStoppedError: 130}
    assert kind("wrong").exit_code == expected.get(kind, 2)


def test_the_tree_is_the_one_that_the_module_draws() -> None:
    assert errors.__doc__ is not None
    drawn = {word for word in errors.__doc__.split() if word.endswith("Error")}
    assert drawn == {kind.__name__ for kind in TREE}


def test_a_broken_picture_is_bad_data_and_a_missing_stage_a_bad_artifact() -> None:
    assert issubclass(ImageError, DataError)
    assert issubclass(MissingStageError, ArtifactError)
    assert issubclass(InputError, ValueError)  # for those who call the Python API


def test_a_missing_extra_names_the_package_its_installation_and_what_else_is_possible() -> None:
    absent = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    error = MissingExtraError("training", "train", absent)
    needed = "training needs torch, which cannot be imported; pip install 'fcn-deploy[train]'"
    assert (str(error), error.extra, error.exit_code) == (needed, "train", 2)
    beside = MissingExtraError("training", "train", absent, ", or train elsewhere")
    assert str(beside) == f"{needed}, or train elsewhere"
    nameless = MissingExtraError("TensorRT", "trt", ImportError("no libnvinfer.so"))
    assert "TensorRT needs a package that cannot be imported (no libnvinfer.so)" in str(nameless)


def test_the_options_that_choose_another_place_are_named_once() -> None:
    error = errors.WriteError("cannot write a.png", "choose another place")
    assert str(error) == "cannot write a.png; choose another place"
    for _ in range(2):
        error.name_flags("--out")
    assert str(error) == "cannot write a.png; choose another place with --out"
    named = errors.WriteError("cannot write a.png", "choose another place", "--here")
    named.name_flags("--out")
    assert str(named) == "cannot write a.png; choose another place with --here"
