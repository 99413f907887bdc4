"""What commands warn of on a fake GPU: refused CUDA graphs, and what is unusual about an engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.cli import fcn_deploy as command
from fcn_deploy.core.files import file_digest, json_bytes
from fcn_deploy.tensorrt.engine_file import read_sidecar, sidecar_path
from tests.runners import trt_runner
from tests.runners.trt_runner import make_run
from tests.tensorrt_fixtures import FakeMachine

latest = trt_runner.latest
TRT = ["--backend", "trt", "--fp16"]
QUICK = ["--quick", "--seconds", "0.001", "--tier", "host", "--size", "8x8", "--threads", "1"]
BENCH = ["bench", "runs/city", *TRT, *QUICK, "--images", "pictures"]
PREDICT = ["predict", "runs/city", "pictures", *TRT]


@pytest.fixture
def pictures(latest: FakeMachine) -> None:
    """A run with its engine, and six pictures of one size."""
    make_run(latest)
    Path("pictures").mkdir()
    for index in range(6):
        levels = np.full((8, 8, 3), index, np.uint8)
        Image.fromarray(levels).save(f"pictures/{index}.png")


@pytest.mark.parametrize("words", [BENCH, PREDICT], ids=["bench", "predict"])
@pytest.mark.parametrize("refused", [False, True])
def test_refused_graphs_are_told(
    latest: FakeMachine,
    pictures: None,
    words: list[str],
    refused: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    latest.cuda.refuse_capture = refused
    command.main(words, standalone_mode=False)
    said = capsys.readouterr().err
    assert ("times no CUDA graph could be made (0 times one was)" in said) is refused
    assert ("warning: trt" in said) is refused


def test_the_note_of_an_engine_is_told(
    latest: FakeMachine, pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (plan,) = Path("engines").glob("*.plan")
    sidecar = read_sidecar(plan)
    plan.write_bytes(b"????" + plan.read_bytes()[4:])
    renewed = replace(sidecar, plan_digest=file_digest(plan))
    sidecar_path(plan).write_bytes(json_bytes(renewed.to_json()))
    command.main(PREDICT, standalone_mode=False)
    assert "warning: trt: " in (said := capsys.readouterr().err)
    assert "is no TensorRT plan" in said
