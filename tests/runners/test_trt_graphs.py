"""CUDA graphs of the TensorRT runner: when they are recorded, kept, dropped and done without."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ShapeProfile
from fcn_deploy.results.runner import GraphCounts
from fcn_deploy.tensorrt import api, callbacks
from fcn_deploy.tensorrt.engine_file import sidecar_path
from fcn_deploy.tensorrt.graphs import MAX_GRAPHS
from tests import fake_tensorrt, tensorrt_fixtures
from tests.runners import trt_runner
from tests.runners.trt_runner import (
    assert_masks,
    assert_streamed,
    make_run,
    open_trt,
    pictures,
    recurring_shapes,
)
from tests.tensorrt_fixtures import FakeMachine, Install

latest, machine = trt_runner.latest, trt_runner.machine
installed = tensorrt_fixtures.installed


def test_a_shape_that_comes_back_runs_as_a_graph(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        for seed in range(6):
            assert_masks(runner, pictures((1, 8, 8), seed))
        # Once plainly, once to record, then four launches.
        assert machine.cuda.launches == 4
        # Another shape in between leaves the graph as it was.
        runner.run(pictures((2, 4, 4)))
        assert_masks(runner, pictures((1, 8, 8), 7))
        assert machine.cuda.launches == 5


def test_graphs_are_few_and_the_least_used_goes(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        runner.run(pictures((8, 100, 100)))  # room for all that follows
        shapes = [(1, 8, 8 + index) for index in range(MAX_GRAPHS + 3)]
        for _ in range(3):
            for shape in shapes:
                assert_masks(runner, pictures(shape))
        assert latest.cuda.held()["graphs"] == MAX_GRAPHS


def test_as_many_graphs_are_kept_as_are_asked_for(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        runner.run(pictures((8, 100, 100)))  # room for all that follows
        runner.reserve_shapes(MAX_GRAPHS)
        for shape in [(1, 8, 8 + index) for index in range(MAX_GRAPHS + 3)]:
            for _ in range(2):
                runner.run(pictures(shape))
        assert latest.cuda.held()["graphs"] == MAX_GRAPHS + 3


def test_growing_buffers_drop_the_graphs_that_knew_the_old_ones(latest: FakeMachine) -> None:
    with open_trt(make_run(latest)) as runner:
        for _ in range(3):
            runner.run(pictures((1, 8, 8)))
        assert latest.cuda.held()["graphs"] == 1
        runner.run(pictures((8, 560, 700)))
        assert latest.cuda.held()["graphs"] == 0
        assert_masks(runner, pictures((1, 8, 8), 5))


@pytest.mark.parametrize("shared", [True, False])
def test_8_6_makes_graphs_where_the_engine_shares_its_profiles(
    shared: bool, installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = installed("8.6.0")
    if not shared:
        monkeypatch.setattr(api, "share_profiles", lambda trt, config: None)
    small = ShapeProfile((1, 8, 8), (1, 8, 8), (2, 16, 16))
    large = ShapeProfile((1, 64, 64), (1, 64, 64), (4, 128, 128))
    run = make_run(old, small, large)
    with open_trt(run) as runner:
        for shape in ((1, 8, 8), (1, 64, 64), (2, 8, 8)):
            for seed in range(4):
                assert_masks(runner, pictures(shape, seed))
        assert old.cuda.launches == (6 if shared else 0)
        # One for each profile, and one for each graph; a refusal is not asked for again.
        assert old.trt._calls.count("context") == (2 + 3 if shared else 2 + 1)
    assert set(old.cuda.held().values()) == {0}


@pytest.mark.parametrize("trusted", [False, True])
def test_an_8_6_engine_that_shares_no_profile_serves_every_batch_plainly(
    trusted: bool, installed: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``trtexec`` builds it: a second context on its profile is refused with an exception."""
    old = installed("8.6.0")
    monkeypatch.setattr(api, "share_profiles", lambda trt, config: None)
    run = make_run(old)
    if trusted:
        (plan,) = Path("engines").glob("*.plan")
        sidecar_path(plan).unlink()
        run = Run(run.root, plan, trusted=True)
    batches = [pictures((1 + seed % 2, 8, 8), seed) for seed in range(12)]
    with open_trt(run) as runner:
        assert_masks(runner, *batches)
        assert_streamed(runner.stream(batches), batches)
        assert old.cuda.launches == 0
        assert old.trt._calls.count("execute") == 2 * len(batches)
        # The plain one, and one that was refused: it is not asked for again.
        assert old.trt._calls.count("context") == 2
        assert len(old.trt._contexts) == 1
        # Two shapes in the slot of `run`, and one in each of those of `stream`.
        assert runner.describe().cuda_graphs == GraphCounts(recorded=0, refused=4)
    assert set(old.cuda.held().values()) == {0}


def refuse_at_the_end(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.cuda, "refuse_capture", True)


def refuse_beforehand(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.trt, "_capturable", False)


def refuse_to_execute(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = fake_tensorrt._IExecutionContext.execute_async_v3
    monkeypatch.setattr(
        fake_tensorrt._IExecutionContext,
        "execute_async_v3",
        lambda self, stream: not machine.cuda.is_capturing(stream) and execute(self, stream),
    )


@pytest.mark.parametrize(
    ("release", "refuse"),
    [
        ("11.4.0", refuse_at_the_end),
        ("11.4.0", refuse_to_execute),
        ("rtx-1.7.1", refuse_beforehand),  # the release that can be asked
    ],
)
def test_a_capture_that_fails_falls_back_to_plain_enqueues(
    release: str, refuse: Callable[[FakeMachine, pytest.MonkeyPatch], None], installed: Install
) -> None:
    """Also: the context whose capture failed lives until its work is done, as the fake asserts."""
    machine = installed(release)
    with open_trt(make_run(machine)) as runner:
        with pytest.MonkeyPatch.context() as refusing:
            refuse(machine, refusing)
            for seed in range(5):
                assert_masks(runner, pictures((1, 8, 8), seed))
            assert machine.cuda.launches == 0
            # A plain one and the one that was refused: this shape is not tried again.
            assert machine.trt._calls.count("context") == 2
            assert len(machine.trt._contexts) == 1
        # Another shape is.
        for shape, launches in (((1, 8, 8), 0), ((2, 8, 8), 2)):
            for seed in range(4):
                assert_masks(runner, pictures(shape, seed))
            assert machine.cuda.launches == launches
    assert set(machine.cuda.held().values()) == {0}


def test_a_capture_waits_for_the_batch_before_it(machine: FakeMachine) -> None:
    """The fake refuses to record while its stream has work: so may TensorRT."""
    batches = [pictures((1, 8, 8), seed) for seed in range(8)]
    with open_trt(make_run(machine)) as runner:
        assert_streamed(runner.stream(batches), batches)
        # Two slots, in each of them once plainly and once to record.
        assert machine.cuda.launches == 4
        assert runner.describe().cuda_graphs == GraphCounts(recorded=2, refused=0)


def test_a_refused_capture_is_told_once_for_a_shape_and_counted(
    latest: FakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    latest.cuda.refuse_capture = True
    with open_trt(make_run(latest)) as runner, caplog.at_level("WARNING", callbacks.LOGGER.name):
        assert runner.describe().cuda_graphs == GraphCounts(0, 0)
        for shape in ((1, 8, 8), (2, 8, 8)):
            for seed in range(4):
                runner.run(pictures(shape, seed))
            list(runner.stream([pictures(shape, seed) for seed in range(6)]))
        latest.cuda.refuse_capture = False
        for _ in range(3):
            runner.run(pictures((1, 9, 9)))
    # Three slots; and the counts are there when the engine is gone.
    assert runner.describe().cuda_graphs == GraphCounts(recorded=1, refused=6)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        f"no CUDA graph of {shape} (N×H×W)" for shape in ("1x8x8", "2x8x8")
    ]
    assert "cudaErrorStreamCaptureInvalidated" in caplog.messages[0]


def test_a_further_context_that_does_not_run_leaves_its_batches_to_the_first(
    machine: FakeMachine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody says that contexts of 8.6 may share a profile and scratch memory both."""
    machine.trt._further_contexts_run = False
    batches = [pictures((1, 8, 8), seed) for seed in range(6)]
    with open_trt(make_run(machine)) as runner:
        assert_masks(runner, *batches)
        assert_streamed(runner.stream(batches), batches)
        assert runner.describe().cuda_graphs == GraphCounts(recorded=0, refused=3)
        assert "the scratch memory is another context's" in caplog.text
    assert machine.cuda.launches == 0
    assert set(machine.cuda.held().values()) == {0}


def test_what_is_remembered_of_refused_captures_is_bounded(latest: FakeMachine) -> None:
    latest.cuda.refuse_capture = True
    runner = open_trt(make_run(latest))
    with runner:
        for width in range(1, 100):
            for _ in range(2):
                runner.run(pictures((1, 1, width)))
        assert runner._engine is not None
        assert 0 < len(runner._engine._graphs._refused) < 99


@pytest.mark.slow
def test_memory_after_1000_runs_of_changing_shapes_as_after_10(machine: FakeMachine) -> None:
    with open_trt(make_run(machine)) as runner:
        runner.run(pictures((8, 64, 64)))
        memory, made = [], []
        most_contexts = 0
        for index, shape in enumerate(recurring_shapes(1000)):
            runner.run(pictures(shape))
            most_contexts = max(most_contexts, len(machine.trt._contexts))
            if index + 1 in (10, 1000):
                memory.append((machine.cuda.in_use(), machine.cuda.in_use("pinned")))
            if index + 1 in (100, 1000):  # by then there are as many graphs as there may be
                made.append((len(machine.trt._contexts), machine.cuda.held()["graphs"]))
        assert memory[0] == memory[1]
        assert made == [(MAX_GRAPHS + 1, MAX_GRAPHS)] * 2
        # The figures above mean something only if graphs came and went.
        assert machine.cuda.launches > 100
        assert most_contexts > MAX_GRAPHS
        assert machine.trt._calls.count("context") > 100
    assert set(machine.cuda.held().values()) == {0}
    assert len(machine.trt._contexts) == 0
