"""What the TensorRT runner tells of the device's time, on a fake GPU with a clock of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fcn_deploy.core.errors import BackendError, BatchShapeError, InputError
from tests import fake_tensorrt
from tests.runners import trt_runner
from tests.runners.trt_runner import assert_masks, make_run, open_trt, pictures
from tests.tensorrt_fixtures import FakeMachine

latest, machine = trt_runner.latest, trt_runner.machine


def test_the_device_tells_its_own_time(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        # The fake's clock: 100 ms for the engine, 1 ms for the second mark.
        assert runner.device_seconds(pictures((1, 8, 8))) == pytest.approx(0.101)


@contextmanager
def copies_counted(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of each copy between host and device that is handed in inside."""
    copied: list[int] = []
    copy = machine.cuda.cudaMemcpyAsync

    def count(target: int, source: int, nbytes: int, kind: int, stream: int) -> object:
        copied.append(nbytes)
        return copy(target, source, nbytes, kind, stream)

    with monkeypatch.context() as patched:
        patched.setattr(machine.cuda, "cudaMemcpyAsync", count)
        yield copied


def test_launches_in_a_row_are_timed_between_two_marks(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures((1, 8, 8))
    with open_trt(make_run(machine)) as runner:
        with copies_counted(machine, monkeypatch) as copied:
            # One mark's 1 ms is shared by all 50; device_seconds would say 101 ms.
            assert runner.launch_seconds(images) == pytest.approx((50 * 0.1 + 0.001) / 50)
        assert copied == [images.nbytes, 64] * 2  # of the two runs that made the graph
        assert machine.cuda.launches == 51
        again = runner.launch_latency(images, launches=4)
        assert (again.graph, again.seconds) == (True, pytest.approx(0.401 / 4))
        assert machine.cuda.launches == 51 + 2 + 5
        assert machine.trt._calls.count("execute") == 3  # plainly, to be recorded, recorded
        assert_masks(runner, pictures((1, 8, 8), 1))
    assert set(machine.cuda.held().values()) == {0}


def test_without_a_graph_plain_enqueues_are_timed_and_told_apart(latest: FakeMachine) -> None:
    latest.cuda.refuse_capture = True
    images = pictures((2, 8, 8))
    with open_trt(make_run(latest)) as runner:
        found = runner.launch_latency(images, launches=10)
        assert (found.graph, found.seconds) == (False, pytest.approx(1.001 / 10))
        assert runner.launch_seconds(images, launches=10) == found.seconds
        assert latest.cuda.launches == 0
        assert_masks(runner, pictures((2, 8, 8), 1))
    assert set(latest.cuda.held().values()) == {0}


def test_what_cannot_be_launched_is_refused(
    latest: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_trt(make_run(latest)) as runner:
        with pytest.raises(InputError, match="0 launches"):
            runner.launch_seconds(pictures((1, 8, 8)), launches=0)
        with pytest.raises(BatchShapeError, match="takes no batch of 99x8x8"):
            runner.launch_seconds(pictures((99, 8, 8)))
        latest.cuda.refuse_capture = True
        events = latest.cuda.held()["events"]
        runner.run(pictures((1, 8, 8)))
        runner.run(pictures((1, 8, 8)))
        execute = fake_tensorrt._IExecutionContext.execute_async_v3
        runs = iter([True, True, False])
        monkeypatch.setattr(
            fake_tensorrt._IExecutionContext,
            "execute_async_v3",
            lambda context, stream: next(runs) and execute(context, stream),
        )
        with pytest.raises(BackendError, match="could not run the engine"):
            runner.launch_seconds(pictures((1, 8, 8)))
        assert latest.cuda.held()["events"] == events  # its marks are given back
    with pytest.raises(BackendError, match="closed"):
        runner.launch_seconds(pictures((1, 8, 8)))


def test_layers_are_timed_and_the_engine_runs_on_as_before(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        for _ in range(3):
            runner.run(pictures((1, 8, 8)))
        launches = machine.cuda.launches
        found = runner.layer_seconds(pictures((1, 8, 8), 1), runs=5)
        assert list(found) == list(fake_tensorrt.LAYER_MS)
        assert found == {
            name: pytest.approx(ms / 1000) for name, ms in fake_tensorrt.LAYER_MS.items()
        }
        # The graph is as it was, and a new shape finds a context without a profiler.
        for shape in ((1, 8, 8), (2, 8, 8)):
            assert_masks(runner, pictures(shape, 2))
        assert machine.cuda.launches == launches + 2
        with pytest.raises(BatchShapeError, match="takes no batch"):
            runner.layer_seconds(pictures((99, 8, 8)))
        assert all(context.profiler is None for context in list(machine.trt._contexts))
    assert set(machine.cuda.held().values()) == {0}
