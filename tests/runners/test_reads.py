"""Opening a runner reads its model file once, whatever it needs of it."""

from pathlib import Path

import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import open_runner, takes, unavailable_reason
from tests.file_reads import counted_reads
from tests.runners.contract import pictures

EVERYTHING = ("mask", "logits", "margin")


@pytest.mark.parametrize("outputs", [("mask",), EVERYTHING], ids=",".join)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("backend", ["ort", "ncnn", "openvino", "openvino-bf16", "openvino-int8x3"])
def test_the_exported_file(
    tiny_run: Run, backend: str, precision: Precision, outputs: tuple[str, ...]
) -> None:
    if (reason := unavailable_reason(backend)) is not None:
        pytest.skip(reason)
    if not takes(backend, precision):
        pytest.skip(f"{backend} does not take {precision.value}")
    with counted_reads() as reads:
        open_runner(tiny_run, backend, precision=precision, outputs=outputs).close()
    assert reads[tiny_run.onnx(precision).resolve()] == 1


def test_the_plain_export(tiny_baseline: Path) -> None:
    with counted_reads() as reads:
        open_runner(Run(tiny_baseline.parent), "baseline").close()
    assert reads[tiny_baseline.resolve()] == 1


@pytest.mark.parametrize("outputs", [("mask",), EVERYTHING], ids=",".join)
def test_after_that_nothing_is_held_of_the_file(tiny_run: Run, outputs: tuple[str, ...]) -> None:
    for backend in ("ort", "openvino", "ncnn"):
        if unavailable_reason(backend) is not None:
            continue
        with open_runner(tiny_run, backend, outputs=outputs, threads=1) as runner:
            runner.run(pictures(1, 32, 40))
            assert not {"bytes", "model"} & vars(runner._file).keys()  # type: ignore[attr-defined]
