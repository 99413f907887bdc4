"""The runner of a network that was imported from ONNX, as it stands."""

import numpy as np
import pytest

from fcn_deploy.core.errors import BackendError, BatchShapeError, MissingStageError, OnnxFileError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import open_runner
from tests.foreign_networks import foreign_run, noise


def test_masks_and_logits_are_the_rewritten_graph_s(run: Run) -> None:
    foreign_run(run)
    with (
        open_runner(run, "original", outputs=("mask", "logits", "margin")) as original,
        open_runner(run, "ort", outputs=("mask", "logits", "margin")) as rewritten,
    ):
        expected, given = original.run(noise(2, 33, 40)), rewritten.run(noise(2, 33, 40))
        assert original.spec == rewritten.spec
        one, other = original.describe(), rewritten.describe()
    assert expected.logits is not None
    assert given.logits is not None
    assert expected.margin is not None
    assert given.margin is not None
    np.testing.assert_array_equal(given.mask, expected.mask)
    np.testing.assert_allclose(given.logits, expected.logits, atol=1e-4)
    np.testing.assert_allclose(given.margin, expected.margin, atol=1e-4)
    assert one.checkpoint_digest == other.checkpoint_digest == one.digest
    assert one.is_float32


def test_it_is_the_baseline_of_its_run(run: Run) -> None:
    foreign_run(run)
    with open_runner(run, "baseline") as baseline, open_runner(run, "original") as original:
        assert baseline.describe().is_baseline
        masks = baseline.run(noise(1, 33, 40)).mask, original.run(noise(1, 33, 40)).mask
    np.testing.assert_array_equal(*masks)


def test_what_it_does_not_give(run: Run) -> None:
    with pytest.raises(MissingStageError, match="was not imported from ONNX"):
        open_runner(run, "original")
    foreign_run(run)
    with pytest.raises(BackendError, match="float32 alone"):
        open_runner(run, "original", precision=Precision.FP16)
    with pytest.raises(MissingStageError, match="holds no checkpoint"):
        open_runner(run, "torch")
    runner = open_runner(run, "original")
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(noise(1, 8, 8))


def test_a_changed_original_is_refused(run: Run) -> None:
    foreign_run(run)
    run.original.write_bytes(run.original.read_bytes() + b"\0")
    with pytest.raises(OnnxFileError, match="another file than"):
        open_runner(run, "original")
    with pytest.raises(OnnxFileError, match="was not made from"):
        open_runner(run, "ort")


@pytest.mark.parametrize("backend", ["original", "ort"])
def test_other_shapes_are_refused(run: Run, backend: str) -> None:
    foreign_run(run, batch=1, size=(48, 80))
    with open_runner(run, backend) as runner:
        assert runner.spec.input_shape == InputShape(1, 48, 80)
        with pytest.raises(BatchShapeError, match="48×80 alone, not of 48×81"):
            runner.run(noise(1, 48, 81))
        with pytest.raises(BatchShapeError, match="batches of 1 pictures, not of 2"):
            runner.run(noise(2, 48, 80))
        assert runner.run(noise(1, 48, 80)).mask.shape == (1, 48, 80)
