from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.artifacts import Run
from fcn_deploy.errors import MissingStageError
from fcn_deploy.export import plain_onnx_from_checkpoint
from fcn_deploy.runners.base import open_runner
from tests.runners.contract import pictures


@pytest.fixture(scope="module")
def plain_run(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("plain"))
    plain_onnx_from_checkpoint(tiny_run.checkpoint, run.baseline_onnx)
    return run


def test_the_baseline_gives_the_masks_of_the_deploy_graph(plain_run: Run, tiny_run: Run) -> None:
    images = pictures(2, 97, 131)
    with (
        open_runner(plain_run, "baseline", outputs=("logits",)) as baseline,
        open_runner(tiny_run, "torch", outputs=("logits", "margin"), device="cpu") as reference,
    ):
        given, expected = baseline.run(images), reference.run(images)
    assert expected.margin is not None
    assert expected.logits is not None
    np.testing.assert_allclose(given.logits, expected.logits, atol=1e-3)
    decided = expected.margin > 2e-3
    np.testing.assert_array_equal(given.mask[decided], expected.mask[decided])


def test_a_missing_plain_export_is_explained(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="fcn-deploy bench"):
        open_runner(Run(tmp_path), "baseline")
