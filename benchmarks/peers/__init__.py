"""What people deploy with otherwise, written as its own documentation advises; see README.md.

No part of the package: peers are here to be measured against, by ``benchmarks/table.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import Backend, Runner
from peers import eager, fcn_resnet50, openvino_api, script, torch_options
from peers.two_workers import TwoWorkers


@dataclass(frozen=True)
class Peer:
    """One way to segment pictures without this toolkit.

    Attributes:
        name: its backend's name in tables.
        unavailable_reason: says why it cannot run here and what to install, or None.
        open: from a run that has a checkpoint and a plain export, and a number of CPU threads.
    """

    name: str
    unavailable_reason: Callable[[], str | None]
    open: Callable[[Run, int], Runner]


def _torch(backend: Backend, precision: Precision) -> Peer:
    return Peer(
        backend.name,
        partial(torch_options.unavailable_reason, backend, precision),
        _by_two_workers(partial(torch_options.open_peer, backend=backend, precision=precision)),
    )


def _by_two_workers(open_peer: Callable[[Run, int], Runner]) -> Callable[[Run, int], Runner]:
    """Return what opens a peer in PyTorch that computes a stream as ours do, two at a time."""
    return lambda run, threads: TwoWorkers(open_peer(run, threads))


#: Of the same network: their masks are checked against ours before they are measured.
PEERS = (
    Peer("peer:eager", eager.unavailable_reason, _by_two_workers(eager.open_peer)),
    Peer("peer:script", script.unavailable_reason, _by_two_workers(script.open_peer)),
    _torch(torch_options.COMPILED, Precision.FP32),
    _torch(torch_options.COMPILED_FP16, Precision.FP16),
    _torch(torch_options.GRAPHS, Precision.FP16),
    Peer("peer:openvino", openvino_api.unavailable_reason, openvino_api.open_peer),
    Peer(
        "peer:openvino-bf16",
        partial(openvino_api.unavailable_reason, "bf16"),
        partial(openvino_api.open_peer, precision="bf16"),
    ),
)
#: Another network: it says how large ours is, and is never ranked.
SIZE_REFERENCE = Peer("peer:fcn_resnet50", fcn_resnet50.unavailable_reason, fcn_resnet50.open_peer)
