"""Our own plain export, imported as if another tool had written it, is our deploy graph again."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.foreign.export import foreign_onnx
from fcn_deploy.graph.foreign.imported import read_imported
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.runners.base import open_runner
from tests.command_line import FcnDeploy
from tests.conftest import TINY_CLASS_NAMES
from tests.foreign_networks import noise


@pytest.fixture
def again(fcn_deploy: FcnDeploy, tiny_baseline: Path) -> Run:
    """The plain export of ``tiny_run`` as a run of its own."""
    Path("classes.txt").write_text("\n".join(TINY_CLASS_NAMES))
    shutil.copy(tiny_baseline, "plain.onnx")
    done = fcn_deploy("import", "onnx:plain.onnx", "--classes", "classes.txt", "--out", "again")
    assert done.code == 0, done.err
    return Run(Path("again"))


@pytest.mark.slow
def test_the_round_trip_gives_the_masks_of_the_deploy_graph(again: Run, tiny_run: Path) -> None:
    ours = OnnxFile(tiny_run / "model.onnx").metadata.spec
    theirs = OnnxFile(again.onnx(Precision.FP32)).metadata.spec
    assert theirs.class_names == ours.class_names
    np.testing.assert_allclose(theirs.mean, ours.mean)
    np.testing.assert_allclose(theirs.std, ours.std)
    assert theirs.input_shape.takes_all
    outputs = ("mask", "logits")
    with (
        open_runner(tiny_run, "ort", outputs=outputs) as one,
        open_runner(again, "ort", outputs=outputs) as other,
    ):
        for shape in ((1, 64, 96), (2, 33, 27), (1, 1, 1), (1, 97, 131)):
            expected, given = one.run(noise(*shape)), other.run(noise(*shape))
            assert expected.logits is not None
            assert given.logits is not None
            scale = np.abs(expected.logits).max()
            np.testing.assert_allclose(given.logits, expected.logits, atol=1e-5 * scale)
            two = np.sort(expected.logits, axis=1)[:, -2:]
            decided = two[:, 1] - two[:, 0] > 2e-5 * scale
            assert decided.mean() > 0.99
            np.testing.assert_array_equal(given.mask[decided], expected.mask[decided])


@pytest.mark.slow
def test_its_half_file_is_ours_too(again: Run, tiny_run: Path) -> None:
    foreign_onnx(*read_imported(again), again.onnx(Precision.FP16), precision=Precision.FP16)
    with (
        open_runner(tiny_run, "ort", precision=Precision.FP16) as one,
        open_runner(again, "ort", precision=Precision.FP16) as other,
    ):
        expected, given = (runner.run(noise(1, 64, 96)).mask for runner in (one, other))
    assert (expected == given).mean() > 0.98
