"""What TensorRT for RTX says to its own engine: the script's file, as the page shows it."""

from pathlib import Path

import pytest
from gpu_page.page import NOT_MEASURED, page
from gpu_page.results import RTX_LOAD_SCHEMA, read_gpu_results

from fcn_deploy.core.spec import Precision
from tests.benchmarks.gpu_page_lines import DOCS, lines_of
from tests.benchmarks.gpu_scripts import load_script
from tests.tensorrt_fixtures import install, write_onnx

WHAT = "TensorRT for RTX on an RTX card"


@pytest.mark.parametrize(
    ("loads", "said"),
    [
        (True, "loaded; our check: accepted ("),
        (False, "REFUSED; our check: accepted; TensorRT said: The engine cannot be deserialized."),
    ],
)
def test_the_page_shows_the_file_as_it_was_written(
    loads: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("rtx_engine")
    assert script.RTX_LOAD_SCHEMA == RTX_LOAD_SCHEMA
    machine = install(monkeypatch, "rtx-1.7.1")
    write_onnx(tmp_path / "fcn.onnx", Precision.FP16)
    machine.build(tmp_path / "fcn.onnx", folder=tmp_path)
    (plan,) = tmp_path.glob("*.plan")
    results = tmp_path / "results"
    results.mkdir()
    (before,) = lines_of(page(read_gpu_results(results), DOCS), WHAT)
    assert before[2] == NOT_MEASURED
    monkeypatch.setattr(machine.trt, "_loads_engines", loads)
    script.main([str(plan), str(results / "rtx-load.json")])
    text = page(read_gpu_results(results), DOCS)
    assert "passed over" not in text
    (cells,) = lines_of(text, WHAT)
    assert cells[2].startswith(said)
    assert cells[3] == "Fake GPU"
    assert cells[5].startswith("TensorRT for RTX 1.7.1")
