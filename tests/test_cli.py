"""Every error is one line and an exit code, and without words the help comes."""

import pytest

from fcn_deploy import cli
from fcn_deploy.core.errors import FcnDeployError
from tests.command_line import FcnDeploy


def test_every_error_of_ours_is_one_line() -> None:
    error = FcnDeployError("a message\nof two lines", "a repair\nof two")
    assert cli._explain(error) == 2
    assert str(error) == "a message of two lines; a repair of two"


def test_a_bug_of_ours_is_one_line_too(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("fcn_deploy.commands.doctor.diagnose", broken)
    finished = fcn_deploy("doctor")
    assert finished.code == 1
    assert len(finished.err.strip().splitlines()) == 1
    assert "--debug" in finished.err


def test_debug_shows_the_traceback(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy("export", "nowhere", "--debug")
    assert finished.code == 2
    assert "Traceback" in finished.err


def test_without_words_the_help_comes(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy()
    assert finished.code == 0
    assert "Usage: fcn-deploy" in finished.out
