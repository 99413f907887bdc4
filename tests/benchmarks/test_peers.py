"""The peers of the benchmark: strong ones, but with our masks."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import contenders
import numpy as np
import peers
import pytest
from numpy.typing import NDArray
from peers import PEERS, SIZE_REFERENCE, Peer, openvino_api

from fcn_deploy.core.errors import BackendError, MissingStageError
from fcn_deploy.core.run import Run
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners.base import Outputs, Runner, open_runner
from tests.benchmarks.table_inputs import THREADS, pictures

#: (N, H, W).  A compiler takes seconds for each, so it is given the first one alone.
pytestmark = pytest.mark.slow

SHAPES = ((3, 97, 131), (1, 97, 131), (1, 33, 64), (2, 1, 1))


@pytest.fixture(scope="module")
def reference(run: Run) -> Iterator[Runner]:
    with open_runner(run, "torch", threads=THREADS, device="cpu") as runner:
        yield runner


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_gives_our_masks_tells_its_stages_and_closes_twice(
    peer: Peer, run: Run, reference: Runner
) -> None:
    if (reason := peer.unavailable_reason()) is not None:
        pytest.skip(reason)
    runner = peer.open(run, THREADS)
    description = runner.describe()
    assert description.backend == peer.name
    assert description.threads == THREADS
    for shape in SHAPES[:1] if "compile" in peer.name else SHAPES:
        images = pictures(shape)
        images.setflags(write=False)
        told: list[str] = []
        mask = runner.run(images, on_stage=told.append).mask
        expected = reference.run(images).mask
        assert told == [COPY_IN, COMPUTE]
        assert mask.dtype == np.uint8
        assert mask.shape == shape
        # One pixel may flip where two classes are level: a picture of 1×1 has no more than two.
        # A network that has hardly learned is near level in many more: coarse rounding shows it.
        share = 1 - contenders.MIN_AGREEMENT[description.precision]
        allowed = max(1.0, (5 if description.precision == "bf16" else 1) * share * mask.size)
        assert int((mask != expected).sum()) <= allowed, shape
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(pictures(SHAPES[0]))


@pytest.mark.parametrize("name", ["peer:eager", "peer:script"])
def test_a_stream_by_two_workers_has_the_same_masks_in_order(name: str, run: Run) -> None:
    import torch

    (peer,) = (peer for peer in PEERS if peer.name == name)
    threads: set[int] = set()
    batches = [pictures((1, 33, 48 + 8 * index)) for index in range(6)]
    with peer.open(run, THREADS) as runner:
        expected = [runner.run(images).mask for images in batches]
        inner = runner._runner  # type: ignore[attr-defined]
        infer = inner._infer

        def watched(images: NDArray[np.uint8]) -> Outputs:
            threads.add(torch.get_num_threads())
            return infer(images)  # type: ignore[no-any-return]

        inner._infer = watched
        streamed = [outputs.mask for outputs in runner.stream(batches)]
        assert threads == {THREADS // 2}
        assert torch.get_num_threads() == THREADS
    for mask, other in zip(streamed, expected, strict=True):
        assert np.array_equal(mask, other)
    with pytest.raises(BackendError, match="closed"):
        list(runner.stream(batches))


def test_the_reference_network_has_masks_of_several_classes(reference: Runner) -> None:
    assert len(np.unique(reference.run(pictures(SHAPES[0])).mask)) > 1


def test_the_size_reference_says_what_it_is(run: Run) -> None:
    with SIZE_REFERENCE.open(run, THREADS) as runner:
        description = runner.describe()
        assert runner.run(pictures((1, 33, 64))).mask.shape == (1, 33, 64)
    assert description.backend == "peer:fcn_resnet50"
    assert "random weights" in description.library
    assert description.checkpoint_digest == ""  # nobody may take its masks for ours


def test_peers_bear_different_names_and_none_of_ours() -> None:
    names = [peer.name for peer in (*PEERS, SIZE_REFERENCE)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("peer:") for name in names)


class TestUnavailable:
    def test_half_precision_and_graphs_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        reasons = {peer.name: str(peer.unavailable_reason()) for peer in PEERS}
        assert "no GPU" in reasons["peer:compile-fp16"] or "compiler" in reasons["peer:compile"]
        assert "no GPU" in reasons["peer:cuda-graphs"]

    def test_no_openvino(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        assert "pip install openvino" in str(openvino_api.unavailable_reason())

    def test_a_cpu_without_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Core:
            def get_property(self, device: str, name: str) -> list[str]:
                return ["FP32", "INT8"]

        fake = ModuleType("openvino")
        fake.Core = Core  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "openvino", fake)
        assert openvino_api.unavailable_reason() is None
        assert "no bf16" in str(openvino_api.unavailable_reason("bf16"))

    def test_no_plain_export(self, tmp_path: Path) -> None:
        with pytest.raises(MissingStageError, match=r"baseline\.onnx"):
            openvino_api.open_peer(Run(tmp_path), THREADS)

    def test_the_table_names_who_is_left_out(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from contextlib import ExitStack

        def cannot_open(run: Run, threads: int) -> Runner:
            raise BackendError("no such luck", "try tomorrow")

        lame = peers.Peer("peer:lame", lambda: "not installed", cannot_open)
        broken = peers.Peer("peer:broken", lambda: None, cannot_open)
        monkeypatch.setattr(contenders, "PEERS", (lame, broken))
        with ExitStack() as stack:
            opened, left_out = contenders.open_peers(run, THREADS, stack)
        assert opened == []
        assert left_out == ["peer:lame: not installed", "peer:broken: no such luck; try tomorrow"]


def test_agreement_is_over_all_pixels() -> None:
    zeros = np.zeros((1, 2, 2), np.uint8)
    ones = np.ones((1, 4, 3), np.uint8)
    assert contenders.agreement([zeros, ones], [zeros, np.zeros_like(ones)]) == 0.25
