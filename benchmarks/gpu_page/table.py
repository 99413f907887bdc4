"""The GPU's table for a page: `trt` beside PyTorch's strongest row, `ort-cuda`, the plain export.

Shown is the GPU of the newest speed figure of `trt`, and of that GPU the figures of that trained
network alone.  Without any such figure the table is one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.device import DeviceTier
from fcn_deploy.results.format import number, percent
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import END_TO_END, HOST, OFFLINE, SINGLE_STREAM
from gpu_page.findings import FP16, label
from gpu_page.page import cell, link
from gpu_page.results import GpuResults, Turns, gpu_of
from gpu_page.speed import TRT

#: The part of a page that the table fills.
PART = "bench-gpu"
NOTHING = "No speed of TensorRT (`trt`) has been measured on a GPU yet"
SIZE = (320, 480)
SMALL, LARGE = 1, 32
ORT_CUDA, PYTORCH = "ort-cuda", "PyTorch "
#: So many PyTorch lines are shown at most: those that are fastest in some column.
PYTORCH_LINES = 2


@dataclass(frozen=True)
class Workload:
    """A column: what was asked, and how it is headed."""

    title: str
    scenario: str
    tier: str
    batch_size: int

    def fits(self, row: BenchRow) -> bool:
        """Say whether a row was asked this."""
        asked = (row.scenario, row.tier, row.batch_size, row.size)
        return asked == (self.scenario, self.tier, self.batch_size, SIZE)

    def figure(self, row: BenchRow) -> str:
        """Return a row's figure: images per second offline, else milliseconds."""
        if self.scenario == OFFLINE:
            return number(row.images_per_s)
        fastest, slowest = row.spread_ms
        return f"{number(row.median_ms)} [{number(fastest)}–{number(slowest)}]"


WORKLOADS = (
    Workload(f"{SMALL} image, end to end, ms", SINGLE_STREAM, END_TO_END, SMALL),
    Workload("from memory, ms", SINGLE_STREAM, HOST, SMALL),
    Workload(f"{LARGE} images, end to end, images/s", OFFLINE, END_TO_END, LARGE),
    Workload("from memory, images/s", OFFLINE, HOST, LARGE),
)


@dataclass(frozen=True)
class Line:
    """A runner with the newest valid row of each workload that it has."""

    runner: RunnerDescription
    rows: dict[Workload, tuple[Bench, BenchRow]] = field(default_factory=dict, compare=False)


def gpu_table(results: GpuResults, folder: Path, checks: Path) -> str:
    """Return the table with what belongs to it, or the sentence that there is none.

    Args:
        results: of GPUs.
        folder: that the page lies in, for its links.
        checks: the page that lists every check.
    """
    shown = [(b, row) for b, row in results.rows_on_gpu() if _workload(row) and row.is_valid]
    engines = [(b, row) for b, row in shown if row.runner.backend == TRT]
    if not engines:
        return f"{NOTHING}; every check and its result: {link(checks, folder)}."
    bench, newest = max(engines, key=lambda pair: pair[0].environment.created)
    gpu, network = gpu_of(newest.runner.device), newest.runner.checkpoint_digest
    alike = [
        (bench, row) for bench, row in shown
        if (gpu_of(row.runner.device), row.runner.checkpoint_digest) == (gpu, network)
    ]  # fmt: skip
    lines = [*_chosen(_lines(alike))]
    files = sorted({Path(b.environment.file) for line in lines for b, _row in line.rows.values()})
    gates = _gates(results, gpu, network)
    words = [
        f"{gpu or 'A GPU without a name'}, {bench.environment.created[:10]}, "
        f"{newest.runner.library} ({', '.join(link(file, folder) for file in files)}).",
        *_turns_words(results.turns, gpu, network),
        *_device_words(results.devices, gpu, network),
    ]
    if len(files) > 1:
        words.append("Rows of different files are of different runs: only ratios in turns compare.")
    return "\n\n".join([cell(" ".join(words)), _markdown(lines, gates)])


def _workload(row: BenchRow) -> Workload | None:
    return next((workload for workload in WORKLOADS if workload.fits(row)), None)


def _lines(rows: Iterable[tuple[Bench, BenchRow]]) -> list[Line]:
    """Return a line for each backend and precision, with the newest row of each workload."""
    found: dict[str, Line] = {}
    for bench, row in sorted(rows, key=lambda pair: pair[0].environment.created):
        workload = _workload(row)
        if workload is not None:
            found.setdefault(label(row.runner), Line(row.runner)).rows[workload] = bench, row
    return [*found.values()]


def _chosen(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield ours, then the PyTorch lines that are fastest somewhere, then ONNX Runtime's."""
    pytorch = [line for line in lines if line.runner.library.startswith(PYTORCH)]
    strongest: list[Line] = []
    for workload in reversed(WORKLOADS):  # many images first
        there = [line for line in pytorch if workload in line.rows]
        if there:
            fastest = min(there, key=lambda line: line.rows[workload][1].median_ms)
            strongest += [] if fastest in strongest else [fastest]
    yield from (line for line in lines if line.runner.backend == TRT)
    yield from strongest[:PYTORCH_LINES]
    yield from (line for line in lines if line.runner.backend == ORT_CUDA)
    yield from (line for line in lines if line.runner.is_baseline)


def _gates(results: GpuResults, gpu: str | None, network: str) -> Mapping[str, Comparison]:
    """Return the newest gate of each runner on the GPU and network."""
    compared = sorted(results.parity, key=lambda pair: pair[0].environment.created)
    return {
        label(one.candidate): one
        for _file, one in compared
        if gpu_of(one.candidate.device) == gpu and one.candidate.checkpoint_digest == network
    }


def _markdown(lines: Sequence[Line], gates: Mapping[str, Comparison]) -> str:
    columns = [w for w in WORKLOADS if any(w in line.rows for line in lines)]
    text = [
        ["backend", *(workload.title for workload in columns), "masks as in PyTorch"],
        ["---", *("---:" for _ in columns), "---:"],
    ]
    for line in lines:
        figures = [w.figure(line.rows[w][1]) if w in line.rows else "–" for w in columns]
        gate = gates.get(label(line.runner))
        text.append([cell(label(line.runner)), *figures, _gate_words(gate)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in text)


def _gate_words(gate: Comparison | None) -> str:
    if gate is None:
        return "not measured"
    share = f"{percent(gate.agreement)}, {gate.images.count} images"
    return share if gate.passed else f"gate FAILED: {share}"


def _turns_words(all_turns: Sequence[Turns], gpu: str | None, network: str) -> Iterator[str]:
    """Yield each engine's newest ratios over the strongest PyTorch and over the plain export."""
    newest: dict[str, Turns] = {}
    for turns in sorted(all_turns, key=lambda one: one.environment.created):
        if (gpu_of(turns.engine.device), turns.engine.checkpoint_digest) == (gpu, network):
            newest[label(turns.engine)] = turns
    for name, turns in sorted(newest.items()):
        if said := _ratio_words(turns):
            yield (f"In turns, {LARGE} images from memory to memory: {name} {' and '.join(said)}.")


def _ratio_words(turns: Turns) -> list[str]:
    rows = [
        row for row in turns.rows
        if (row.engine_tier, row.tier, row.batch_size, row.size) == (HOST, HOST, LARGE, SIZE)
    ]  # fmt: skip
    said = []
    # The strongest PyTorch row is the one over which the ratio is smallest.
    if pytorch := [row for row in rows if row.over.startswith("torch")]:
        row = min(pytorch, key=lambda one: one.median)
        said.append(
            f"**{number(row.median)}** ({number(row.low)}–{number(row.high)}) × PyTorch "
            f"(`{row.over}` {row.precision})"
        )
    if plain := [row for row in rows if row.over.startswith("baseline")]:
        said.append(
            f"{number(plain[0].median)} ({number(plain[0].low)}–{number(plain[0].high)}) × the "
            "plain export"
        )
    return said


def _device_words(tiers: Sequence[DeviceTier], gpu: str | None, network: str) -> Iterator[str]:
    """Yield each FP16 engine's newest times on the GPU alone, and its share of the floor."""
    alone: dict[str, dict[int, str]] = {}
    shares: dict[str, float] = {}
    for tier in sorted(tiers, key=lambda one: one.environment.created):
        runner = tier.runner
        found = (gpu_of(runner.device), runner.checkpoint_digest, runner.precision)
        for row in tier.rows if found == (gpu, network, FP16) else ():
            if row.size == SIZE and row.batch_size in (SMALL, LARGE) and row.alone_ms is not None:
                times = alone.setdefault(label(runner), {})
                times[row.batch_size] = f"{number(row.alone_ms)} ms"
            if (row.size, row.batch_size) == (SIZE, LARGE) and row.of_floor is not None:
                shares[label(runner)] = row.of_floor
    for name, times in sorted(alone.items()):
        told = ", ".join(f"{times[batch]} for {batch}" for batch in sorted(times))
        yield f"On the GPU alone, {name}: {told}."
    for name, share in sorted(shares.items()):
        yield (
            f"From pinned memory at batch {LARGE}, {name} reaches {percent(share)} of what the "
            "slower of bus and GPU allows."
        )
