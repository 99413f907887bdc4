"""``fcn-deploy doctor``: every backend, and what to install for it."""

import re

import pytest

from fcn_deploy.runners.base import BACKENDS
from tests.command_line import FcnDeploy


def test_doctor_names_every_backend(fcn_deploy: FcnDeploy) -> None:
    finished = fcn_deploy("doctor").succeeded()
    for word in ("cores", "python"):
        assert word in finished.out
    for backend in BACKENDS:
        assert re.search(rf"^  {backend}  +(works|no: )", finished.out, re.MULTILINE), backend


def test_brackets_are_printed_as_they_are(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fcn_deploy.runners.base.unavailable_reason", lambda _: "pip install 'fcn-deploy[trt]'"
    )
    assert "fcn-deploy[trt]" in fcn_deploy("doctor").out
