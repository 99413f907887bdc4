"""CUDA graphs in the rows of a bench, on a fake GPU: a figure without them says so."""

import json
from pathlib import Path

import pytest

from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.bench.scenarios import TimedLoop
from fcn_deploy.results.scenarios import HOST, TIERS
from tests.bench.measuring import measure
from tests.runners import trt_runner
from tests.runners.trt_runner import make_run, open_trt
from tests.tensorrt_fixtures import FakeMachine

latest = trt_runner.latest


@pytest.mark.parametrize("refused", [False, True])
def test_rows_count_the_cuda_graphs_of_their_engine(
    latest: FakeMachine, inputs: Inputs, tmp_path: Path, refused: bool
) -> None:
    latest.cuda.refuse_capture = refused
    with open_trt(make_run(latest)) as runner:
        rows = measure([runner], [inputs], [1], TimedLoop(1e-9), tmp_path, tiers=TIERS)
        counts = runner.describe().cuda_graphs
    assert counts is not None
    (row,) = (row for row in rows if row.tier == HOST)
    content = json.loads(json.dumps(row.to_json()))["runner"]["cuda_graphs"]
    assert (content["recorded"] == 0, content["refused"] > 0) == (refused, refused)
    assert content["recorded"] <= counts.recorded
