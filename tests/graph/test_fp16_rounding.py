"""Half precision on a CPU, as a GPU computes it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fcn_deploy.core.errors import ExportError
from fcn_deploy.core.spec import Precision
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.graph.fp16_rounding import with_explicit_rounding
from fcn_deploy.graph.onnx_file import OnnxFile


def test_explicit_rounding_leaves_no_half_but_the_casts(tiny_run: Path) -> None:
    model = with_explicit_rounding(OnnxFile(tiny_run / "model.fp16.onnx").model)
    onnx.checker.check_model(model, full_check=True)
    assert {numpy_helper.to_array(t).dtype for t in model.graph.initializer} <= {
        np.dtype(np.float32),
        np.dtype(np.int64),
    }
    untouched = OnnxFile(tiny_run / "model.onnx").model
    assert with_explicit_rounding(untouched) is untouched


@pytest.mark.slow
def test_an_export_that_overflows_on_a_gpu_is_refused_on_a_cpu(
    overflowing: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.fp16.onnx"
    with pytest.raises(ExportError, match=r"rounded to half everywhere.*--bisect"):
        onnx_from_checkpoint(overflowing, target, precision=Precision.FP16)
    assert not target.exists()
    onnx_from_checkpoint(overflowing, tmp_path / "model.onnx")  # FP32 is sound
    unchecked = onnx_from_checkpoint(overflowing, target, precision=Precision.FP16, checked=False)
    assert target.exists()
    assert unchecked.checked_shapes == ()
