"""Backends that nobody asked for: one that does not compute a network is named and left out."""

from collections.abc import Callable

import pytest

from fcn_deploy.commands.shared.backends import opened_unasked
from fcn_deploy.core.errors import OnnxFileError, UnfitNetworkError


def opening(error: Exception | None) -> Callable[[str], str]:
    """Open a backend by its name; `ncnn` raises."""

    def open_one(name: str) -> str:
        if name == "ncnn" and error is not None:
            raise error
        return f"runner {name}"

    return open_one


def test_a_network_of_ours_may_be_unfit_for_a_backend(capsys: pytest.CaptureFixture[str]) -> None:
    unfit = opening(UnfitNetworkError("no layer is computed faster"))
    found = opened_unasked(False, ("ncnn", "ort"), unfit, unasked=True)
    assert found == {"ort": "runner ort"}
    assert "left out: ncnn" in capsys.readouterr().out
    with pytest.raises(UnfitNetworkError):
        opened_unasked(False, ("ncnn", "ort"), unfit)  # it was asked for
    with pytest.raises(UnfitNetworkError):
        opened_unasked(False, ("ncnn",), unfit, unasked=True)  # nothing else is there


def test_a_file_of_ours_that_is_damaged_is_no_reason_to_go_on() -> None:
    damaged = opening(OnnxFileError("model.onnx is damaged"))
    with pytest.raises(OnnxFileError):
        opened_unasked(False, ("ort", "ncnn"), damaged, unasked=True)
    # Of another tool's graph any may be refused.
    assert opened_unasked(True, ("ort", "ncnn"), damaged) == {"ort": "runner ort"}
