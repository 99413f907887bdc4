"""The TensorRT runner on a real GPU: the masks of ONNX Runtime, and memory that stays flat."""

import os
from pathlib import Path

import numpy as np
import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.machine import cuda
from fcn_deploy.results.runner import GraphCounts
from fcn_deploy.runners.base import open_runner, unavailable_reason
from fcn_deploy.tensorrt.build_missing import ensure_engine
from fcn_deploy.tensorrt.engine_file import ENGINES_FOLDER
from tests.runners import trt_runner
from tests.runners.trt_runner import FP16, make_run, open_trt, pictures, recurring_shapes
from tests.tensorrt_fixtures import FakeMachine

latest = trt_runner.latest

needs_trt = pytest.mark.skipif(
    unavailable_reason("trt") is not None, reason=f"trt: {unavailable_reason('trt')}"
)


@pytest.fixture(scope="module")
def built_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engines of the run that GPU_RUN names, built once for all tests here."""
    source = os.environ.get("GPU_RUN")
    if source is None:
        pytest.skip("set GPU_RUN to a run directory with model.fp16.onnx")
    folder = tmp_path_factory.mktemp("gpu")
    link_engines(os.environ.get("GPU_ENGINES"), folder)
    run = Run(Path(source).resolve())
    timings = os.environ.get("GPU_TIMINGS")  # of an earlier build
    cache = None if timings is None else Path(timings).resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ensure_engine(run, FP16, outputs=("mask", "logits"), timing_cache=cache)
    return folder


def link_engines(there: str | None, folder: Path) -> None:
    """Put the engines of a folder, if one was named, where they are looked for."""
    engines = folder / ENGINES_FOLDER
    engines.mkdir()
    for file in [] if there is None else Path(there).resolve().iterdir():
        (engines / file.name).symlink_to(file)


def test_engines_that_are_there_are_not_built_again(latest: FakeMachine, tmp_path: Path) -> None:
    run, elsewhere = make_run(latest), tmp_path / "elsewhere"
    ensure_engine(run, FP16, outputs=("mask", "logits"))
    for there, more in ((None, 2), ("engines", 0)):
        folder = elsewhere / str(there)
        folder.mkdir(parents=True)
        link_engines(there, folder)
        before = latest.trt._made["builder"]
        ensure_engine(run, FP16, outputs=("mask", "logits"), folder=folder / ENGINES_FOLDER)
        assert latest.trt._made["builder"] == before + more


@pytest.fixture
def real_run(built_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run that GPU_RUN names, with its engines in the current folder."""
    run = Run(Path(os.environ["GPU_RUN"]).resolve())
    monkeypatch.chdir(built_folder)
    return run


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 131), (3, 64, 96), (1, 320, 480)])
@pytest.mark.gpu
@needs_trt
class TestOnAGpu:
    def test_masks_are_those_of_onnx_runtime(self, real_run: Run, shape: BatchShape) -> None:
        reason = unavailable_reason("ort")
        if reason is not None:
            pytest.skip(f"ort, the reference: {reason}")
        images = pictures(shape)
        with open_trt(real_run, "mask", "logits") as runner:
            found = runner.run(images)
            again = [result.mask for result in runner.stream([images] * 5)]
        with open_runner(
            real_run, "ort", precision=FP16, outputs=("mask", "logits", "margin")
        ) as reference:
            expected = reference.run(images)
        assert found.logits is not None
        assert expected.logits is not None
        assert expected.margin is not None
        epsilon = float(np.abs(found.logits - expected.logits).max())
        decided = expected.margin > 2 * epsilon
        np.testing.assert_array_equal(found.mask[decided], expected.mask[decided])
        for mask in again:
            np.testing.assert_array_equal(mask, found.mask)


@pytest.mark.gpu
@needs_trt
def test_a_batch_that_comes_back_is_launched_as_a_graph(real_run: Run) -> None:
    with open_trt(real_run) as runner:
        latency = runner.launch_latency(pictures((1, 320, 480)))
        assert latency.graph
        assert latency.seconds > 0
        assert runner.describe().cuda_graphs == GraphCounts(recorded=1, refused=0)


@pytest.mark.gpu
@needs_trt
def test_device_memory_is_flat_over_1000_runs(
    real_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = 0
    launch = cuda.Graph.launch

    def count(graph: cuda.Graph, stream: cuda.Stream) -> None:
        nonlocal launches
        launches += 1
        launch(graph, stream)

    monkeypatch.setattr(cuda.Graph, "launch", count)
    with open_trt(real_run) as runner:
        runner.run(pictures((8, 64, 64)))
        used = []
        for index, shape in enumerate(recurring_shapes(1000)):
            runner.run(pictures(shape))
            if index + 1 in (100, 1000):  # by then there are as many graphs as there may be
                used.append(cuda.memory_in_use())
    assert launches > 100
    assert used[1] - used[0] < 64 << 20  # graphs and TensorRT's own pools come and go
