"""Several batches computed at the same time on the CPU, answered in their order.

    batches ──begin──▶ lane 1 ┐
            ──begin──▶ lane 2 ┼─finish──▶ outputs, in the order of the batches
            ──begin──▶ (waits)┘

One batch on all threads makes every thread wait for the slowest at the end of each layer; a batch
for each half of the threads does not.  Of two that began together one is done first, and outputs
keep their order: so that its lane need not wait for the other's, a further batch is begun already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.runners.base import Outputs, Runner

_Begun = TypeVar("_Begun")
#: Batches computed at the same time, each on its share of the threads.  With one thread each, two
#: take 0.83 to 0.91 of the time of one after the other on two threads in OpenVINO, 0.8 in ONNX
#: Runtime.  More of them are not measured, and each one needs the memory of a whole network.
LANES = 2
#: Batches begun and not answered: those that are computed, one for the lane that is done first.
#: Without it cores idled for 1.9, 1.1 and 3.3 % of a stream (ONNX Runtime, ncnn, OpenVINO) and for
#: 3.3, 2.4 and 3.9 % of `predict`; with it for 0.7, 1.2 and 0.6 %, and for 0.9, 1.2 and 1.3 %
#: (CPU time against two cores' time; medians of four; read off).
IN_FLIGHT = LANES + 1


def in_lanes(
    runner: Runner,
    batches: Iterable[NDArray[np.uint8]],
    begin: Callable[[NDArray[np.uint8]], _Begun],
    finish: Callable[[_Begun], Outputs],
) -> Iterator[Outputs]:
    """Yield the outputs of each batch, in order, with ``IN_FLIGHT`` of them begun.

    It keeps the promise of :meth:`Runner.stream`.  A single batch is computed by ``runner.run``,
    on all threads.

    Args:
        runner: whose stream this is.
        batches: each may lie in the array of the one before.
        begin: takes a checked, contiguous batch and returns before it is computed, whether a lane
            is free or not; the array belongs to the caller again then.
        finish: waits for a batch that was begun, and returns its outputs.
    """
    source = iter(batches)
    first = next(source, None)
    if first is None:
        return
    runner.check(first)
    first = first.copy()  # its owner may use the array again for the second
    try:
        second = next(source, None)
    except FcnDeployError:
        yield runner.run(first)
        raise
    if second is None:
        yield runner.run(first)
        return

    in_flight: deque[tuple[tuple[int, ...], _Begun]] = deque()

    def collected() -> Outputs:
        shape, begun = in_flight.popleft()
        with runner.translate_errors(shape):
            return finish(begun)

    source = chain([first, second], source)
    refusal: FcnDeployError | None = None
    while refusal is None:
        if len(in_flight) == IN_FLIGHT:
            yield collected()  # before the source is asked for more than those
        try:
            images = next(source, None)
            if images is None:
                break
            runner.check(images)
            with runner.translate_errors(images.shape):
                in_flight.append((images.shape, begin(np.ascontiguousarray(images))))
        except FcnDeployError as error:
            refusal = error
    # What fails here raises at once: a later result would be taken for the one that is missing.
    while in_flight:
        yield collected()
    if refusal is not None:
        raise refusal


def in_threads(
    runner: Runner,
    batches: Iterable[NDArray[np.uint8]],
    network: Callable[[], Callable[[NDArray[np.uint8]], Outputs]],
) -> Iterator[Outputs]:
    """Yield the outputs of each batch, in order, each lane a thread that computes its batch.

    It keeps the promise of :meth:`Runner.stream`.

    Args:
        runner: whose stream this is.
        batches: each may lie in the array of the one before.
        network: returns what computes a batch, and may be called by ``LANES`` threads at once; it
            is opened when first asked for, and refused once the runner is closed.
    """
    with ThreadPoolExecutor(LANES) as pool:

        def begin(images: NDArray[np.uint8]) -> Future[Outputs]:
            return pool.submit(network(), images.copy())  # its owner may use the array again

        def finish(running: Future[Outputs]) -> Outputs:
            network()
            return running.result()

        yield from in_lanes(runner, batches, begin, finish)
