"""What ``benchmarks/gpu/device_tier.py`` recorded of engines: the GPU alone, copies, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fcn_deploy.results.device import (
    BUS,
    DEVICE,
    HOST,
    LAUNCHES,
    PINNED,
    DeviceRow,
    DeviceTier,
)
from fcn_deploy.results.format import number, percent
from gpu_page.findings import (
    FP16,
    MISSED,
    REACHED,
    Finder,
    Finding,
    has_tournament,
    shape_words,
)
from gpu_page.results import GpuResults

#: Of the slower of bus and GPU, the share that a stream from pinned memory has to reach, and where.
MIN_OF_FLOOR, OF_FLOOR_BATCH = 0.6, 32
#: MiB by which memory may differ between two marks: graphs and TensorRT's own pools come and go.
LEAK_TOLERANCE_MIB = 64
#: Longer names of layers are cut: TensorRT puts together those of all nodes that it fused.
_LONGEST_NAME = 60
#: What a device file says, in words; empty where it does not say it.
Words = Callable[[DeviceTier], str]


def measured(
    words: Words, precision: str = FP16, *, by_shape: bool = True, tournament: bool = False
) -> Finder:
    """Return the finder of one thing that a device file may tell of an engine.

    Args:
        words: what it is.
        precision: of the engine.
        by_shape: whether it is told of each shape.
        tournament: whether its file's argmax is written in comparisons.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for tier in results.devices:
            found = (tier.runner.precision, has_tournament(tier.runner))
            told = words(tier) if found == (precision, tournament) else ""
            if told:
                driver = tier.gpu.get("driver", "not told")
                versions = f"{tier.runner.library}, driver for CUDA {driver}"
                shapes = map(_shape, tier.rows) if by_shape else ()
                yield Finding.of(tier.environment, tier.runner.device, versions, told, shapes)

    return find


def latency(tier: DeviceTier) -> str:
    """Return the time of each shape on the GPU alone: by launches in a row, where they were."""
    words = []
    for row in tier.rows:
        timing = row.timings.get(LAUNCHES) or row.timings.get(DEVICE)
        if timing is not None:
            rate = number(timing.images_per_s)
            words.append(f"{_shape(row)}: {number(timing.median_ms)} ms, {rate} images/s")
    return "; ".join(words)


def of_floor(tier: DeviceTier) -> str:
    """Return the share that a stream from pinned memory reaches, with the verdict."""
    words = []
    for row in tier.rows:
        share = row.of_floor
        if share is not None:
            verdict = REACHED if share >= MIN_OF_FLOOR else MISSED
            judged = f" ({verdict})" if row.batch_size == OF_FLOOR_BATCH else ""
            rate = number(row.timings[PINNED].images_per_s)
            words.append(f"{_shape(row)}: {rate} images/s, {percent(share)}{judged}")
    return "; ".join(words)


def bus(tier: DeviceTier) -> str:
    """Return the rates of copies in and out."""
    return "; ".join(
        f"{_shape(row)}: {number(timing.further.get('in_gb_per_s'))} GB/s in, "
        f"{number(timing.further.get('out_gb_per_s'))} GB/s out"
        for row in tier.rows
        if (timing := row.timings.get(BUS)) is not None
    )


def ordinary_memory(tier: DeviceTier) -> str:
    """Return what a stream from and to ordinary memory takes beside pinned memory."""
    return "; ".join(
        f"{_shape(row)}: {number(row.timings[HOST].median_ms)} ms, pinned "
        f"{number(row.timings[PINNED].median_ms)} ms"
        for row in tier.rows
        if {HOST, PINNED} <= row.timings.keys()
    )


def two_contexts(tier: DeviceTier) -> str:
    """Return what two contexts at once take beside one."""
    both = f"{PINNED}, 2 contexts"
    return "; ".join(
        f"{_shape(row)}: {number(row.timings[both].median_ms)} ms a batch, with one "
        f"{number(row.timings[PINNED].median_ms)} ms"
        for row in tier.rows
        if {both, PINNED} <= row.timings.keys()
    )


def layers(tier: DeviceTier) -> str:
    """Return the sum of the layers of each shape beside its time, and the slowest of them."""
    words = []
    for row in tier.rows:
        if row.layers:
            name, slowest = row.layers[0]
            name = name.replace("`", "'").replace("|", "/")
            cut = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
            words.append(
                f"{_shape(row)}: {len(row.layers)} layers {number(row.layers_ms)} ms, in one "
                f"{number(row.alone_ms)} ms; slowest `{cut}` {number(slowest)} ms"
            )
    return "; ".join(words)


def memory(tier: DeviceTier) -> str:
    """Return the GPU memory after opening and after each shape."""
    if not tier.rows:
        return ""
    after = [f"{_shape(row)}: {row.memory_mib:,} MiB" for row in tier.rows]
    return "; ".join([f"opened: {tier.memory_after_open_mib:,} MiB", *after])


def graphs(tier: DeviceTier) -> str:
    """Return how often a batch's work became a CUDA graph, and how often that was refused."""
    counts = tier.runner.cuda_graphs
    if counts is None or not counts.recorded + counts.refused:
        return ""
    verdict = f"REFUSED {counts.refused} times" if counts.refused else "none refused"
    return f"{verdict}, {counts.recorded:,} recorded"


def leak(tier: DeviceTier) -> str:
    """Return the GPU memory after many runs, and whether it stayed between the last two marks."""
    used = {} if tier.leak is None else tier.leak.get("memory_in_use_mib_after", {})
    if len(used) < 2:
        return ""
    *_, before, last = (int(mib) for mib in used.values())
    verdict = "flat" if last - before < LEAK_TOLERANCE_MIB else f"GROWS by {last - before:,} MiB"
    told = ", ".join(f"{int(mib):,} MiB after {int(runs):,}" for runs, mib in used.items())
    return f"{verdict}: {told} runs"


def _shape(row: DeviceRow) -> str:
    return shape_words(row.batch_size, row.size)
