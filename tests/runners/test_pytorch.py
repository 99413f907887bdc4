from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fcn_deploy.core.errors import BackendError, MissingStageError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.networks.deploy_graph import DeployModel
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners import pytorch
from fcn_deploy.runners.base import (
    BACKENDS,
    OpenRequest,
    Runner,
    find_backend,
    open_runner,
    unavailable_reason,
)
from fcn_deploy.runners.pytorch import CompiledRunner
from tests.runners.contract import RunnerContract, pictures
from tests.small_network import SMALL_SPEC, SmallNetwork


class TestTorchRunner(RunnerContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "torch", outputs=outputs, device="cpu")


def test_threads_are_pinned(tiny_run: Run) -> None:
    before = torch.get_num_threads()
    try:
        with open_runner(tiny_run, "torch", threads=1, device="cpu") as runner:
            assert runner.describe().threads == 1
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_is_never_replaced_by_the_cpu(tiny_run: Run) -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        open_runner(tiny_run, "torch", device="cuda")


def test_without_a_checkpoint_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingStageError, match="fcn-deploy train --out"):
        open_runner(Run(tmp_path / "nothing"), "torch")


def test_unknown_backend_names_the_known_ones(tiny_run: Run) -> None:
    with pytest.raises(BackendError, match="torch"):
        open_runner(tiny_run, "tensorflow")


@pytest.fixture
def small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose network is small enough to be compiled in a test."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CroppedNetwork(SMALL_SPEC.num_classes)
    checkpoint = SimpleNamespace(model=network, spec=SMALL_SPEC)
    monkeypatch.setattr(pytorch, "load_checkpoint", lambda path: checkpoint)
    run = Run(tmp_path)
    run.checkpoint.write_bytes(b"weights")
    return run


class CroppedNetwork(SmallNetwork):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        return super().forward(images)[:, :, :height, :width]


@pytest.mark.slow
class TestCompiled:
    @pytest.fixture(autouse=True)
    def _needs_a_compiler(self) -> None:
        reason = unavailable_reason("torch-compile")
        if reason is not None:
            pytest.skip(reason)

    def test_it_compiles_and_gives_what_torch_gives(
        self, small_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outputs = ("mask", "logits")
        with (
            open_runner(small_run, "torch", outputs=outputs, device="cpu") as reference,
            open_runner(
                small_run, "torch-compile", outputs=outputs, threads=1, device="cpu"
            ) as compiled,
        ):
            images = pictures(2, 33, 50)
            images.setflags(write=False)
            told: list[str] = []
            given, expected = compiled.run(images, on_stage=told.append), reference.run(images)
            assert told == [COPY_IN, COMPUTE]
            assert given.logits is not None
            assert expected.logits is not None
            np.testing.assert_allclose(given.logits, expected.logits, atol=1e-4)
            np.testing.assert_array_equal(given.mask, given.logits.argmax(1))
            # Another picture of that shape, and no more shapes than are allowed.
            monkeypatch.setattr(pytorch, "MAX_COMPILED_SHAPES", 1)
            again = pictures(2, 33, 50, seed=1)
            np.testing.assert_allclose(
                compiled.run(again).logits, reference.run(again).logits, atol=1e-4
            )
            with pytest.raises(BackendError, match=r"has compiled 1 of them.*--backend torch"):
                compiled.run(pictures(1, 8, 8))
            description = compiled.describe()
        assert description.backend == "torch-compile"
        assert "torch.compile, channels last" in description.library
        assert "," not in reference.describe().library  # the reference stays plain
        with pytest.raises(BackendError, match="closed"):
            compiled.run(images)

    def test_more_shapes_than_the_compilers_own_limit_are_allowed(
        self, small_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Compiled by nothing, so that it takes no time: the limit is the tracer's.
        monkeypatch.setattr(
            torch, "compile", lambda model, **_: COMPILE(model, dynamic=False, backend="eager")
        )
        with open_runner(small_run, "torch-compile", device="cpu") as runner:
            assert isinstance(runner, CompiledRunner)
            for width in range(8, 20):
                assert runner.run(pictures(1, 8, width)).mask.shape == (1, 8, width)


#: Before any test replaces it.
COMPILE = torch.compile


def test_what_the_compiler_lacks_is_named(small_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "finds no no-such-compiler" in str(unavailable_reason("torch-compile"))
    with pytest.raises(BackendError, match="no-such-compiler"):
        open_runner(small_run, "torch-compile", device="cpu")


def test_graphs_without_a_gpu_are_refused_in_one_line(
    small_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unavailable_reason("torch-graphs") == (
        "PyTorch sees no GPU, and CUDA graphs are the GPU's"
    )
    for device in ("auto", "cpu", "cuda"):
        with pytest.raises(BackendError) as refused:
            open_runner(small_run, "torch-graphs", device=device)
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(BackendError, match="use --backend torch"):
        pytorch.GRAPHS.open(OpenRequest(small_run, device="cpu"))


@pytest.mark.parametrize(
    ("precision", "device", "words"),
    [
        (Precision.FP32, "cpu", ""),
        (Precision.FP32, "cuda", ""),  # the reference of every comparison
        (Precision.FP16, "cpu", ""),
        (Precision.FP16, "cuda", "channels last"),
    ],
)
def test_eager_torch_is_channels_last_only_where_it_is_nobodys_reference(
    precision: Precision, device: str, words: str
) -> None:
    assert str(pytorch.TorchOptions().settled(precision, torch.device(device))) == words


def test_what_takes_long_to_prepare_or_is_a_reference_is_taken_on_request_only() -> None:
    from fcn_deploy.commands.shared.backends import usable_backends

    on_request = {name for name in BACKENDS if find_backend(name).on_request}
    assert on_request == {"torch-compile", "torch-graphs", "original"}
    assert not on_request & set(usable_backends(Precision.FP32))


class FakeGraph:
    """Stands in for ``torch.cuda.CUDAGraph``: what was given while it recorded is done again."""

    recording: FakeGraph | None = None

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []

    def replay(self) -> None:
        for step in self.steps:
            step()


@contextmanager
def _records(graph: FakeGraph) -> Iterator[None]:
    FakeGraph.recording = graph
    try:
        yield
    finally:
        FakeGraph.recording = None


class FakeStream:
    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: FakeStream) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def _on(stream: FakeStream) -> Iterator[None]:
    yield


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs in host memory: a graph reads and writes the tensors that it was recorded on."""
    forward = DeployModel.forward

    def recorded(model: DeployModel, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = forward(model, image)
        if FakeGraph.recording is not None:

            def again() -> None:
                for target, source in zip(outputs, forward(model, image), strict=True):
                    target.copy_(source)

            FakeGraph.recording.steps.append(again)
        return outputs

    monkeypatch.setattr(DeployModel, "forward", recorded)
    monkeypatch.setattr(pytorch, "choose_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(pytorch, "_missing", lambda options, device: None)
    monkeypatch.setattr(pytorch, "_pinned", torch.empty_like)
    for name, fake in {
        "CUDAGraph": FakeGraph,
        "graph": _records,
        "Stream": FakeStream,
        "current_stream": FakeStream,
        "stream": _on,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.usefixtures("fake_graphs")
def test_each_shape_has_a_graph_and_the_least_used_goes(
    small_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytorch, "MAX_GRAPHS", 2)
    runner = open_runner(small_run, "torch-graphs", outputs=("mask", "logits"))
    assert isinstance(runner, pytorch.GraphRunner)
    with open_runner(small_run, "torch", outputs=("mask", "logits")) as reference, runner:
        kept = []
        for seed, size in enumerate([(8, 9), (16, 4), (8, 9), (5, 5), (16, 4), (8, 9)]):
            images = pictures(2, *size, seed)
            given, expected = runner.run(images), reference.run(images)
            np.testing.assert_array_equal(given.mask, expected.mask)
            np.testing.assert_allclose(given.logits, expected.logits, atol=1e-5)
            kept.append((given.mask, expected.mask))
            assert len(runner._recorded) <= 2
        for given_mask, expected_mask in kept:  # the caller's own: no later run has changed them
            np.testing.assert_array_equal(given_mask, expected_mask)
        assert "CUDA graphs, channels last" in runner.describe().library
    with pytest.raises(BackendError, match="closed"):
        runner.run(images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["torch-compile", "torch-graphs"])
def test_options_on_the_gpu_give_the_masks_of_eager_torch(tiny_run: Run, backend: str) -> None:
    images = pictures(2, 97, 131)
    with (
        open_runner(tiny_run, "torch", outputs=("mask", "margin"), device="cuda") as reference,
        open_runner(tiny_run, backend, device="cuda") as runner,
    ):
        expected = reference.run(images)
        assert expected.margin is not None
        decided = expected.margin > 1e-3
        for _ in range(3):
            np.testing.assert_array_equal(runner.run(images).mask[decided], expected.mask[decided])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fp16_on_the_gpu_gives_masks(tiny_run: Run) -> None:
    with open_runner(tiny_run, "torch", precision=Precision.FP16, device="cuda") as runner:
        assert runner.run(pictures(2, 97, 131)).mask.shape == (2, 97, 131)
        assert "cuda" in runner.describe().device
