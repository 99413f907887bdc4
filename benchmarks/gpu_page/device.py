"""What ``benchmarks/gpu/device_tier.py`` recorded of engines: the GPU alone, copies, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from fcn_deploy.results.device import BUS, DEVICE, HOST, LAUNCHES, PINNED, DeviceRow, DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.format import number, percent
from fcn_deploy.results.runner import RunnerDescription
from gpu_page.findings import FP16, MISSED, REACHED, Finder, Finding, label, shape_words, variant
from gpu_page.results import GpuResults

#: Of the slower of bus and GPU, the share that a stream from pinned memory has to reach, and where.
MIN_OF_FLOOR, OF_FLOOR_BATCH = 0.6, 32
#: MiB by which memory may differ between two marks: graphs and TensorRT's own pools come and go.
LEAK_TOLERANCE_MIB = 64
#: Longer names of layers are cut: TensorRT puts together those of all nodes that it fused.
_LONGEST_NAME = 60
#: What a device file says of each case that it has, in words.
Words = Callable[[DeviceTier], Mapping[str, str]]


def measured(words: Words, precision: str = FP16, *, tail: str = "") -> Finder:
    """Return the finder of one thing that a device file may tell of an engine.

    Args:
        words: what it is.
        precision: of the engine.
        tail: of its file, by :func:`gpu_page.findings.variant`.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for tier in results.devices:
            found = (tier.runner.precision, variant(tier.runner))
            parts = words(tier) if found == (precision, tail) else {}
            if parts:
                driver = tier.gpu.get("driver", "not told")
                versions = f"{tier.runner.library}, driver for CUDA {driver}"
                yield Finding.of(tier.environment, tier.runner.device, versions, parts)

    return find


def _by_shape(tier: DeviceTier, words: Callable[[DeviceRow], str]) -> dict[str, str]:
    """Return shape → its words, of the shapes that have any."""
    told = {shape_words(row.batch_size, row.size): words(row) for row in tier.rows}
    return {shape: f"{shape}: {said}" for shape, said in told.items() if said}


def latency(tier: DeviceTier) -> dict[str, str]:
    """Return the time of each shape on the GPU alone: by launches in a row, where they were."""

    def words(row: DeviceRow) -> str:
        timing = row.timings.get(LAUNCHES) or row.timings.get(DEVICE)
        if timing is None:
            return ""
        return f"{number(timing.median_ms)} ms, {number(timing.images_per_s)} images/s"

    return _by_shape(tier, words)


def of_floor(tier: DeviceTier) -> dict[str, str]:
    """Return the share that a stream from pinned memory reaches, with the verdict."""

    def words(row: DeviceRow) -> str:
        share = row.of_floor
        if share is None:
            return ""
        verdict = REACHED if share >= MIN_OF_FLOOR else MISSED
        judged = f" ({verdict})" if row.batch_size == OF_FLOOR_BATCH else ""
        return f"{number(row.timings[PINNED].images_per_s)} images/s, {percent(share)}{judged}"

    return _by_shape(tier, words)


def bus(tier: DeviceTier) -> dict[str, str]:
    """Return the rates of copies in and out."""

    def words(row: DeviceRow) -> str:
        timing = row.timings.get(BUS)
        if timing is None:
            return ""
        inwards, outwards = (timing.further.get(f"{way}_gb_per_s") for way in ("in", "out"))
        return f"{number(inwards)} GB/s in, {number(outwards)} GB/s out"

    return _by_shape(tier, words)


def ordinary_memory(tier: DeviceTier) -> dict[str, str]:
    """Return what a stream from and to ordinary memory takes beside pinned memory."""

    def words(row: DeviceRow) -> str:
        if not {HOST, PINNED} <= row.timings.keys():
            return ""
        pinned = number(row.timings[PINNED].median_ms)
        return f"{number(row.timings[HOST].median_ms)} ms, pinned {pinned} ms"

    return _by_shape(tier, words)


def two_contexts(tier: DeviceTier) -> dict[str, str]:
    """Return what two contexts at once take beside one."""
    both = f"{PINNED}, 2 contexts"

    def words(row: DeviceRow) -> str:
        if not {both, PINNED} <= row.timings.keys():
            return ""
        one = number(row.timings[PINNED].median_ms)
        return f"{number(row.timings[both].median_ms)} ms a batch, with one {one} ms"

    return _by_shape(tier, words)


def layers(tier: DeviceTier) -> dict[str, str]:
    """Return the sum of the layers of each shape beside its time, and the slowest of them."""

    def words(row: DeviceRow) -> str:
        if not row.layers:
            return ""
        name, slowest = row.layers[0]
        name = name.replace("`", "'").replace("|", "/")
        cut = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        return (
            f"{len(row.layers)} layers {number(row.layers_ms)} ms, in one "
            f"{number(row.alone_ms)} ms; slowest `{cut}` {number(slowest)} ms"
        )

    return _by_shape(tier, words)


def memory(tier: DeviceTier) -> dict[str, str]:
    """Return the GPU memory after opening and after each shape."""
    if not tier.rows:
        return {}
    opened = {"opened": f"opened: {tier.memory_after_open_mib:,} MiB"}
    return opened | _by_shape(tier, lambda row: f"{row.memory_mib:,} MiB")


def leak(tier: DeviceTier) -> dict[str, str]:
    """Return the GPU memory after many runs, and whether it stayed between the last two marks."""
    used = {} if tier.leak is None else tier.leak.get("memory_in_use_mib_after", {})
    if len(used) < 2:
        return {}
    *_, before, last = (int(mib) for mib in used.values())
    verdict = "flat" if last - before < LEAK_TOLERANCE_MIB else f"GROWS by {last - before:,} MiB"
    told = ", ".join(f"{int(mib):,} MiB after {int(runs):,}" for runs, mib in used.items())
    return {"": f"{verdict}: {told} runs"}


def graphs() -> Finder:
    """Return the finder of how often a batch's work became a CUDA graph, or was refused.

    Any file counts that counts graphs.  One with a refusal is a case of its own: a file of other
    shapes, of which none was refused, does not hide it.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for (file, name), (environment, runner) in _counting(results).items():
            counts = runner.cuda_graphs
            if counts is not None and counts.recorded + counts.refused:
                verdict = f"REFUSED {counts.refused} times" if counts.refused else "none refused"
                case = f"{name}, {file}" if counts.refused else name
                words = f"{name}: {verdict}, {counts.recorded:,} recorded"
                yield Finding.of(environment, runner.device, runner.library, {case: words})

    return find


def _counting(results: GpuResults) -> dict[tuple[str, str], tuple[Environment, RunnerDescription]]:
    """Return file and runner → the runner's last description there: its counts grow."""
    found: dict[tuple[str, str], tuple[Environment, RunnerDescription]] = {}
    for environment, runner in (
        *((tier.environment, tier.runner) for tier in results.devices),
        *((bench.environment, row.runner) for bench, row in results.rows_on_gpu()),
        *((file.environment, compared.candidate) for file, compared in results.parity),
        *((share.environment, share.runner) for share in results.masks),
    ):
        key = environment.file, label(runner)
        earlier = found.get(key)
        if earlier is None or _tries(earlier[1]) < _tries(runner):
            found[key] = environment, runner
    return found


def _tries(runner: RunnerDescription) -> int:
    counts = runner.cuda_graphs
    return 0 if counts is None else counts.recorded + counts.refused
