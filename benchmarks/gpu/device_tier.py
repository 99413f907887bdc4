"""What one engine and the bus give, from the device alone to masks in host memory.

    python device_tier.py RUN PRECISION JSON [--contexts 1,2] [--shape NxHxW …] [--leak] [--alone]

For each shape (those asked for, or all that ``docs/gpu-checks.md`` asks for):

    layers   TensorRT's own profile, layer by layer
    launches computing alone: its graph launched many times in a row between two events
    device   computing one batch between two events after its copy: at batch 1 the device waits
             there for the host to make the launch
    bus      the copies alone, in and out, as if both ways were free at once
    pinned   batches in pinned memory → masks in pinned memory: no copy by the host
    host     the same from and to memory of the caller's own

and, where no shape was asked for, the memory over 1,000 runs of recurring shapes; ``--leak`` asks
for that alone, or beside the shapes that are named.  ``--alone`` asks for layers and launches
only, in which a busy host has no part.  ``of_floor`` is the share that `pinned`
reaches of what the slower of bus and launches would allow.  ``--contexts`` also lets that many
threads, each with an engine context and streams of its own, share the device.  Written after every
measurement: a run that is cut off leaves what it had, its last row with the error that says so.
Exit code 1 where a shape could not be measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, Precision
from fcn_deploy.machine import cuda
from fcn_deploy.results.device import DEVICE, LAUNCHES, PINNED, BatchTiming, DeviceRow, DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.runners.base import Outputs, Runner, open_runner
from fcn_deploy.runners.trt import TrtRunner

SHAPES: tuple[BatchShape, ...] = (
    (1, 320, 480), (8, 320, 480), (32, 320, 480), (64, 320, 480), (1, 1024, 2048),
)  # fmt: skip
WARM_UP_RUNS, RUNS, REPEATS = 20, 100, 5
#: A stream is read for about so long in each repeat.
STREAM_SECONDS = 1.0
#: Two batches are in flight and one is being filled.
BUFFERS = 3
LEAK_RUNS, LEAK_MARKS = 1000, (10, 100, 1000)
#: More shapes than graphs are kept, each often enough in a row to be recorded and launched.
LEAK_SHAPES, LEAK_IN_A_ROW = 20, 3
#: Of one batch, between two events.
LAUNCHES_IN_A_ROW = 50
#: Error of a row whose measuring goes on.
UNFINISHED = "cut off before all of it was measured"
#: Error of a row that was to have no more.
ALONE = "layers and launches were all that was asked for"

Batch = NDArray[np.uint8]
Read = Callable[[Iterator[Batch]], Iterator[Outputs]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("precision", type=Precision)
    parser.add_argument("json", type=Path)
    parser.add_argument("--contexts", default="1", help="numbers of contexts at once, e.g. 1,2")
    parser.add_argument("--shape", dest="shapes", type=_shape, action="append", help="NxHxW")
    parser.add_argument("--leak", action="store_true", help="memory over 1,000 runs")
    parser.add_argument("--alone", action="store_true", help="layers and launches only")
    asked = parser.parse_args(arguments)
    shapes = asked.shapes or (() if asked.leak else SHAPES)
    contexts = [int(word) for word in asked.contexts.split(",")]
    run, target = Run.from_argument(asked.run), asked.json
    environment, gpu = Environment.current(), vars(cuda.describe_gpu())
    generator = np.random.default_rng(0)
    before = cuda.memory_in_use()
    with ExitStack() as stack:
        runners = [_opened(run, asked.precision, stack) for _ in range(max(contexts))]
        first = runners[0]
        opened_mib = (cuda.memory_in_use() - before) >> 20
        tier = DeviceTier(environment, first.describe(), (), gpu, opened_mib)
        for shape in shapes:
            earlier = tier.rows
            for row in _measured(runners, () if asked.alone else contexts, shape, generator):
                row = replace(row, memory_mib=(cuda.memory_in_use() - before) >> 20)
                # The description counts the graphs that were recorded by now.
                tier = replace(tier, rows=(*earlier, row), runner=first.describe())
                write_json(target, tier.to_json())
            print(replace(tier.rows[-1], layers=()).to_json())
        if asked.leak or not (asked.shapes or asked.alone):
            tier = replace(tier, leak=_leak(first, generator))
            write_json(target, tier.to_json())
            print(tier.leak)
    failed = [row for row in tier.rows if row.error not in (None, ALONE)]
    for row in failed:
        print(f"{row.batch_size}x{row.size[0]}x{row.size[1]}: {row.error}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _opened(run: Run, precision: Precision, stack: ExitStack) -> TrtRunner:
    runner = stack.enter_context(open_runner(run, "trt", precision=precision))
    assert isinstance(runner, TrtRunner)
    return runner


def _shape(text: str) -> BatchShape:
    batch, height, width = map(int, text.split("x"))
    return batch, height, width


def _measured(
    runners: Sequence[TrtRunner],
    contexts: Sequence[int],
    shape: BatchShape,
    generator: np.random.Generator,
) -> Iterator[DeviceRow]:
    """Yield a shape's row after each measurement; the last one has all, or says what failed.

    Args:
        contexts: numbers of contexts at once; none for layers and launches only.
    """
    row = DeviceRow(shape[0], shape[1:], {}, error=UNFINISHED)
    try:
        row = replace(row, layers=_layers(runners[0], shape, generator))
        yield row
        for name, timing in _timings(runners, contexts, shape, generator):
            row = replace(row, timings={**row.timings, name: timing})
            yield row
    except FcnDeployError as error:
        yield replace(row, error=str(error))
    else:
        yield replace(row, error=None if contexts else ALONE)


def _layers(
    runner: TrtRunner, shape: BatchShape, generator: np.random.Generator
) -> tuple[tuple[str, float], ...]:
    """Return each layer's milliseconds by TensorRT's profiler, the slowest first."""
    images = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
    seconds = runner.layer_seconds(images, runs=RUNS)
    return tuple(sorted(((n, 1000 * spent) for n, spent in seconds.items()), key=lambda x: -x[1]))


def _timings(
    runners: Sequence[TrtRunner],
    contexts: Sequence[int],
    shape: BatchShape,
    generator: np.random.Generator,
) -> Iterator[tuple[str, BatchTiming]]:
    """Yield each timing with its name as soon as it is there."""
    first = runners[0]
    buffers = [[runner.batch_buffer(shape) for _ in range(BUFFERS)] for runner in runners]
    for buffer in (buffer for own in buffers for buffer in own):
        buffer[...] = generator.integers(0, 256, buffer.shape, dtype=np.uint8)
    launches = _launches(first, buffers[0][0])
    yield LAUNCHES, launches
    if not contexts:
        return
    yield DEVICE, _device(first, buffers[0])
    bus = _bus(shape)
    yield "bus", bus
    count = max(BUFFERS, round(STREAM_SECONDS * launches.images_per_s / shape[0]))
    for number in contexts:
        reads = [(runner.stream_views, own) for runner, own in zip(runners, buffers, strict=True)]
        pinned = _streamed(reads[:number], count)
        floor = pinned.images_per_s / min(launches.images_per_s, bus.images_per_s)
        name = PINNED if number == 1 else f"{PINNED}, {number} contexts"
        yield name, pinned.with_figures(of_floor=floor)
    pageable = [buffer.copy() for buffer in buffers[0]]
    yield "host", _streamed([(first.stream, pageable)], count)


def _launches(runner: TrtRunner, batch: Batch) -> BatchTiming:
    for _ in range(WARM_UP_RUNS):
        runner.run(batch)
    repeats = [runner.launch_seconds(batch, launches=LAUNCHES_IN_A_ROW) for _ in range(REPEATS)]
    return BatchTiming.of_repeats(repeats, len(batch))


def _device(runner: TrtRunner, batches: Sequence[Batch]) -> BatchTiming:
    for index in range(WARM_UP_RUNS):
        runner.device_seconds(batches[index % len(batches)])
    repeats = [
        statistics.median(
            runner.device_seconds(batches[index % len(batches)]) for index in range(RUNS)
        )
        for _ in range(REPEATS)
    ]
    return BatchTiming.of_repeats(repeats, len(batches[0]))


def _bus(shape: BatchShape) -> BatchTiming:
    """Time the copies of a batch and of its masks by events, each way alone."""
    pixels = int(np.prod(shape))
    stream, start, end = cuda.Stream(), cuda.Event(), cuda.Event()
    host, device = cuda.PinnedBuffer(3 * pixels), cuda.DeviceBuffer(3 * pixels)

    def seconds(copy: Callable[[], None]) -> float:
        copy()
        start.record(stream)
        for _ in range(RUNS):
            copy()
        end.record(stream)
        end.synchronize()
        return end.seconds_since(start) / RUNS

    try:
        ways = [
            [
                seconds(lambda: stream.copy_in(device, host, 3 * pixels)),
                seconds(lambda: stream.copy_out(host, device, pixels)),
            ]
            for _ in range(REPEATS)
        ]
    finally:
        for held in (stream, start, end, host, device):
            held.close()
    inwards, outwards = (statistics.median(way) for way in zip(*ways, strict=True))
    return BatchTiming.of_repeats([max(way) for way in ways], shape[0]).with_figures(
        in_gb_per_s=3 * pixels / inwards / 1e9, out_gb_per_s=pixels / outwards / 1e9
    )


def _streamed(reads: Sequence[tuple[Read, Sequence[Batch]]], count: int) -> BatchTiming:
    """Read streams of ``count`` batches each, every one on a thread of its own."""

    def read(stream: Read, batches: Sequence[Batch], number: int) -> None:
        for _ in stream(batches[index % len(batches)] for index in range(number)):
            pass

    def turn(number: int) -> float:
        failed: list[BaseException] = []

        def safely(stream: Read, batches: Sequence[Batch]) -> None:
            try:
                read(stream, batches, number)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=safely, args=pair) for pair in reads]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        return time.perf_counter() - started

    turn(WARM_UP_RUNS)
    repeats = [turn(count) / count / len(reads) for _ in range(REPEATS)]
    return BatchTiming.of_repeats(repeats, len(reads[0][1][0]))


def _leak(runner: Runner, generator: np.random.Generator) -> dict[str, Any]:
    runner.run(np.zeros((8, 320, 480, 3), np.uint8))
    shapes = generator.integers((1, 16, 16), (9, 321, 481), size=(LEAK_SHAPES, 3))
    used = {}
    for index in range(LEAK_RUNS):
        if index % LEAK_IN_A_ROW == 0:
            images = np.zeros((*generator.choice(shapes), 3), np.uint8)
        runner.run(images)
        if index + 1 in LEAK_MARKS:
            used[str(index + 1)] = cuda.memory_in_use() >> 20
    return {
        "runs": LEAK_RUNS,
        "shapes": LEAK_SHAPES,
        "runs_in_a_row": LEAK_IN_A_ROW,
        "memory_in_use_mib_after": used,
    }


if __name__ == "__main__":
    main()
