"""The only clock in the project: what one query takes, tier by tier and stage by stage.

    device       compute alone, by the device's own events, for runners that have them
    host         uint8 pictures in host memory → masks in host memory
    end-to-end   encoded pictures on disk → masks in host memory

          decode → copy in → compute → copy out → │ → write
          └──────────── latency ─────────────────┘     └─ masks as PNG files: timed, not counted

Tiers are never mixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench.inputs import Inputs
from fcn_deploy.bench.mask_check import MaskSamples
from fcn_deploy.data.images import read_image
from fcn_deploy.data.masks import write_mask
from fcn_deploy.data.pipeline import (
    all_readable,
    batches_of_one_size,
    decoded_ahead,
    lookahead,
    picture_threads,
)
from fcn_deploy.results.bench import ALL_STAGES, DECODE, WRITE
from fcn_deploy.results.runner import COMPUTE, COPY_OUT
from fcn_deploy.results.scenarios import DEVICE, END_TO_END, HOST
from fcn_deploy.runners.base import Runner, stream_by_key


@dataclass(frozen=True)
class Query:
    """What one query took, in seconds.

    Attributes:
        latency: from its start to the masks in memory.
        stages: end to end, each of ``ALL_STAGES``; None at the other tiers.
        wall: from its start until its masks were written, by a watch of its own.
    """

    latency: float
    stages: dict[str, float] | None
    wall: float


class _Watch:
    """Laps: the time since the last one belongs to the stage that ends."""

    def __init__(self) -> None:
        self.stages = dict.fromkeys(ALL_STAGES, 0.0)
        self._last = time.perf_counter()

    def skip(self) -> None:
        """Leave out the time since the last lap."""
        self._last = time.perf_counter()

    def stage_done(self, stage: str) -> None:
        """Give the time since the last lap to a stage."""
        now = time.perf_counter()
        self.stages[stage] += now - self._last
        self._last = now


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to measure: a runner at a tier, batch size and picture size.

    Attributes:
        folder: where the end-to-end tier writes its masks.
        threads: that decode ahead in a stream; None: as many as there are cores.
        samples: masks of what was run since they were last checked.
    """

    runner: Runner
    tier: str
    batch_size: int
    inputs: Inputs
    folder: Path
    threads: int | None = None
    samples: MaskSamples = field(default_factory=MaskSamples)

    @property
    def name(self) -> str:
        """Runner and conditions, for messages."""
        runner = self.runner.describe()
        height, width = self.inputs.size
        return f"{runner.backend} {runner.precision} {self.tier} {self.batch_size}×{height}×{width}"

    @property
    def measurable(self) -> bool:
        """Whether the runner has this tier: not every device has a clock."""
        return self.tier != DEVICE or self._device_seconds(0) is not None

    def query(self, number: int, on_result: Callable[[], None] = lambda: None) -> Query:
        """Run one query.

        Args:
            number: which; queries walk through the inputs.
            on_result: called when the masks are in memory.
        """
        if self.tier == DEVICE:
            spent = self._device_seconds(number)
            assert spent is not None  # `measurable` has asked
            return Query(spent, None, spent)
        if self.tier == HOST:
            return self._host_query(number, on_result)
        return self._end_to_end_query(number, on_result)

    def _device_seconds(self, number: int) -> float | None:
        return self.runner.device_seconds(self.inputs.batch(self._picked(number)))

    def _host_query(self, number: int, on_result: Callable[[], None]) -> Query:
        picked = self._picked(number)
        images = self.inputs.batch(picked)
        started = time.perf_counter()
        outputs = self.runner.run(images)
        latency = time.perf_counter() - started
        on_result()
        self.samples.keep(picked, outputs.mask)
        return Query(latency, None, latency)

    def _end_to_end_query(self, number: int, on_result: Callable[[], None]) -> Query:
        picked = self._picked(number)
        started = time.perf_counter()
        watch = _Watch()
        images = self._decoded(picked)
        watch.stage_done(DECODE)
        outputs = self.runner.run(images, on_stage=watch.stage_done)
        # A runner that cannot tell its stages apart has named none: then all of it is computing.
        watch.stage_done(COPY_OUT if watch.stages[COMPUTE] else COMPUTE)
        in_memory = time.perf_counter()
        on_result()
        resumed = time.perf_counter()  # what the listener did is nobody's stage
        watch.skip()
        self._write(outputs.mask)
        watch.stage_done(WRITE)
        wall = (in_memory - started) + (time.perf_counter() - resumed)
        self.samples.keep(picked, outputs.mask)
        return Query(in_memory - started, watch.stages, wall)

    def stream(self, pictures: Sequence[int]) -> Iterator[int]:
        """Run pictures in batches, copies beside the computing where the runner can.

        Args:
            pictures: numbers of the inputs; at the end-to-end tier they are decoded ahead.

        Yields:
            How many more results are there.
        """
        if self.tier == END_TO_END:
            yield from self._stream_from_disk(pictures)
            return
        starts = range(0, len(pictures), self.batch_size)
        batches = (pictures[start : start + self.batch_size] for start in starts)
        yield from self._streamed((batch, self.inputs.batch(batch)) for batch in batches)

    def _stream_from_disk(self, pictures: Sequence[int]) -> Iterator[int]:
        """Decode the next batches while one is being computed, as `predict` does."""
        files = (self.inputs.files[number] for number in pictures)
        with picture_threads(self.threads) as pool:
            ahead = lookahead(self.batch_size, self.threads)
            decoded = all_readable(decoded_ahead(files, pool, ahead))
            yield from self._streamed(
                ([pictures[place] for place in batch.places], batch.images)
                for batch in batches_of_one_size(decoded, self.batch_size)
            )

    def _streamed(
        self, batches: Iterable[tuple[Sequence[int], NDArray[np.uint8]]]
    ) -> Iterator[int]:
        """Stream batches, each with the numbers of its pictures."""
        for picked, outputs in stream_by_key(self.runner, batches):
            self.samples.keep(picked, outputs.mask)
            yield len(outputs.mask)

    def answer(self, pictures: Sequence[int]) -> None:
        """Run some pictures as one batch, decoded first: nothing is there to overlap with."""
        load = self._decoded if self.tier == END_TO_END else self.inputs.batch
        for outputs in self.runner.stream([load(pictures)]):
            self.samples.keep(pictures, outputs.mask)

    def _picked(self, number: int) -> list[int]:
        return self.inputs.query(number, self.batch_size)

    def _decoded(self, picked: Iterable[int]) -> NDArray[np.uint8]:
        return np.stack([read_image(self.inputs.files[index]) for index in picked])

    def _write(self, masks: NDArray[np.uint8]) -> None:
        for place, mask in enumerate(masks):
            write_mask(self.folder / f"{place}.png", mask, self.runner.spec.palette)
