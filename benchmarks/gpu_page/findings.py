"""What the recorded results say of one check each: verdict, main figures, GPU and versions.

    GpuResults ──Finder──▶ Finding, … ──newest──▶ one line for each GPU

A finder chooses by what a result holds: kind, backend, precision, tier, shape.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcn_deploy.core.spec import Precision, Product, Tail
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.format import number, percent, points
from fcn_deploy.results.parity import Comparison
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Training
from gpu_page.results import FAILED, PASSED, SKIPPED, GpuResults, TestRun, gpu_of, unique

FP32, FP16, INT8 = Precision.FP32.value, Precision.FP16.value, Precision.INT8.value
REACHED, MISSED = "reached", "MISSED"
#: What training has to reach: validation mIoU, within seconds of all epochs.
MIN_MIOU, MAX_SECONDS = 0.65, 600
#: Fewer training pictures say nothing of a rate: their epoch is over in a moment.
MIN_PICTURES_FOR_RATE = 2000
#: What `fcn-deploy export` takes by itself; None is of a file that does not tell it.
_USUAL_TAILS = (None, Tail.EARLY_ARGMAX.value, Tail.RESIZE.value)


@dataclass(frozen=True)
class Finding:
    """One answer to a check.

    Attributes:
        file: that holds it.
        created: when, ISO 8601.
        gpu: its name; empty where the file does not tell it.
        versions: of what was measured, in words.
        parts: case, e.g. a shape → verdict and main figures, as Markdown.  Where the check has one
            case only, that is the empty word.
        head: what stands before the parts.
    """

    file: Path
    created: str
    gpu: str
    versions: str
    parts: Mapping[str, str]
    head: str = ""

    @classmethod
    def of(
        cls,
        environment: Environment,
        device: str,
        versions: str,
        parts: Mapping[str, str],
        head: str = "",
    ) -> Finding:
        """Return what a file says of one device, e.g. ``cuda:0 (NVIDIA H200)``."""
        file, gpu = Path(environment.file), gpu_of(device) or ""
        return cls(file, environment.created, gpu, versions, parts, head)

    @property
    def result(self) -> str:
        """All parts in words."""
        return self.head + "; ".join(self.parts.values())


Finder = Callable[[GpuResults], Iterator[Finding]]


def newest(findings: Iterable[Finding]) -> list[Finding]:
    """Return what counts of each GPU: the newest part of each case.

    A finding keeps the parts of which no newer one tells; one that keeps none is left out.
    """
    kept: list[Finding] = []
    seen: set[tuple[str, str]] = set()
    for one in sorted(findings, key=lambda one: (one.created, str(one.file)), reverse=True):
        parts = {case: words for case, words in one.parts.items() if (one.gpu, case) not in seen}
        seen.update((one.gpu, case) for case in parts)
        kept += [replace(one, parts=parts)] if parts else []
    return sorted(kept, key=lambda one: (one.gpu, sorted(one.parts)))


def special_tail(tail: str | None) -> str:
    """Return a model file's tail where `export` takes it only if it is asked to; else empty."""
    return "" if tail in _USUAL_TAILS else tail or ""


def variant(runner: RunnerDescription) -> str:
    """Return what tells an engine from the usual one of its precision: tail, portability; or ""."""
    portable = f"portable {runner.portable}" if runner.portable else ""
    return ", ".join(filter(None, (special_tail(runner.tail), portable)))


def label(runner: RunnerDescription) -> str:
    """Return a runner's name for a page, without its device: ``torch`` fp16.

    Two engines of one precision have two names if their tails differ: ``trt`` fp16, tournament.
    """
    if runner.is_baseline:
        return "plain export"
    other = variant(runner)
    return f"`{runner.backend}` {runner.precision}" + (f", {other}" if other else "")


def shape_words(batch_size: int, size: Sequence[int]) -> str:
    """Return a batch's shape: 32×320×480."""
    return "×".join(map(str, (batch_size, *size)))


# -- engines and tests --------------------------------------------------------------------------


def engine(precision: str, *releases: str, tail: str = "", portable: bool = False) -> Finder:
    """Return the finder of engines that were built on a GPU.

    Args:
        precision: of the engine.
        releases: what the version of TensorRT may begin with; none: any.
        tail: of its file, by :func:`special_tail`.
        portable: whether it was built to fit other releases or other GPUs.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for built in results.engines:
            sidecar = built.sidecar
            fits = str(sidecar.flags.get("portable") or "")
            found = (sidecar.product, sidecar.precision.value, sidecar.outputs, bool(fits))
            if found != (Product.TRT, precision, ("mask",), portable):
                continue
            if special_tail(sidecar.tail) != tail:
                continue
            if not sidecar.version.startswith(releases or ("",)):
                continue
            layers = ", ".join(f"{count} {name}" for name, count in sidecar.layers.items())
            case = ".".join(sidecar.version.split(".")[:2]) + f" {fits}"
            words = (
                f"built in {sidecar.build_seconds:.0f} s, {sidecar.plan_bytes / 1e6:.1f} MB; "
                f"layers: {layers or 'not told'}"
            )
            yield Finding(
                built.file,
                sidecar.built_at,
                built.gpu,
                f"TensorRT {sidecar.version}, driver for CUDA {sidecar.driver}",
                {case: words},
                f"`--portable {fits}`: " if fits else "",
            )

    return find


def rtx_loaded() -> Finder:
    """Return the finder of what TensorRT for RTX said to its own engine, beside our check."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for load in results.rtx_loads:
            words = ["loaded" if load.loaded else "REFUSED", f"our check: {load.our_check}"]
            words += [] if load.loaded else [f"TensorRT said: {load.last_error}"]
            yield Finding(
                Path(load.environment.file),
                load.environment.created,
                load.gpu,
                f"{load.library}, driver for CUDA {load.driver}",
                {"": "; ".join(words)},
            )

    return find


def tested(module: str) -> Finder:
    """Return the finder of runs of ``pytest -m gpu`` with the tests of a module among them."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for run in results.test_runs:
            if any(module in one.name for one in run.outcomes):
                driver = [] if run.driver is None else [f"driver for CUDA {run.driver}"]
                yield Finding(
                    Path(run.environment.file),
                    run.environment.created,
                    run.gpu,
                    ", ".join([*run.libraries, *driver]),
                    {"": _test_words(run)},
                )

    return find


def _test_words(run: TestRun) -> str:
    names = {
        outcome: [one.name.rpartition("::")[2] for one in run.outcomes if one.outcome == outcome]
        for outcome in (PASSED, FAILED, SKIPPED)
    }
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in names.items() if found)
    if names[FAILED]:
        return f"FAILED: {', '.join(f'`{name}`' for name in names[FAILED])}; {counts}"
    if run.exit_code:
        return f"FAILED with pytest's exit code {run.exit_code}; {counts}"
    reasons = unique(one.reason for one in run.outcomes if one.reason is not None)
    return counts + (f" ({'; '.join(reasons)})" if reasons else "")


# -- masks --------------------------------------------------------------------------------------


def parity(backend: str, precision: str) -> Finder:
    """Return the finder of a backend's gate."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for file, compared in results.parity:
            runner = compared.candidate
            if (runner.backend, runner.precision) == (backend, precision):
                tail = variant(runner)
                yield Finding.of(
                    file.environment,
                    runner.device,
                    f"{runner.library}; reference {compared.reference.library}",
                    {tail: parity_words(compared)},
                    f"{tail}: " if tail else "",
                )

    return find


def parity_words(compared: Comparison) -> str:
    """Return the gate's verdict with what agrees, on how many pictures."""
    verdict = "passed" if compared.passed else f"FAILED ({', '.join(compared.failed_checks)})"
    pixels = compared.images.pixels / 1e6
    words = [
        f"{verdict} on {compared.images.count} pictures: {percent(compared.agreement)} of "
        f"{pixels:.2f} million pixels agree",
        f"{compared.flips:,} flips, {compared.decided_flips:,} of them of decided pixels",
    ]
    change = None if compared.scores is None else compared.scores.miou_change_points
    if change is not None:
        words.append(f"mIoU {points(change)} points")
    if compared.stream is None:
        words.append("by the gate before schema 4: no single classes, no stream")
    return "; ".join(words)


def masks_alone(backend: str, precision: str, *, tail: str = "") -> Finder:
    """Return the finder of a backend's share of equal pixels, taken without logits.

    Args:
        backend: of the runner.
        precision: of its file.
        tail: of its file, by :func:`variant`.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for share in results.masks:
            runner = share.runner
            found = (runner.backend, runner.precision, variant(runner))
            if found == (backend, precision, tail):
                verdict = REACHED if share.agreement >= share.required else MISSED
                words = (
                    f"{percent(share.agreement)} of {share.pixels / 1e6:.2f} million pixels agree, "
                    f"required {percent(share.required)}: {verdict}; {share.flips:,} flips, the "
                    f"widest margin among them {number(share.widest_flip_margin)}"
                )
                yield Finding.of(share.environment, runner.device, runner.library, {"": words})

    return find


# -- training -----------------------------------------------------------------------------------


def trained(architecture: str) -> Finder:
    """Return the finder of trainings that had a score to reach in a time.

    Args:
        architecture: what its name begins with.
    """

    def find(results: GpuResults) -> Iterator[Finding]:
        for training in results.trainings:
            score = training.best.val_mean_iou
            if not training.architecture.startswith(architecture) or score is None:
                continue
            kept, last = len(training.epochs), training.epochs[-1].epoch
            seconds = sum(epoch.seconds for epoch in training.epochs)
            # A recorded file may keep some of its epochs; the others took about as long.
            reached = score >= MIN_MIOU and seconds * last / kept <= MAX_SECONDS
            time = f"epochs of {seconds:.0f} s together"
            if kept < last:
                time = f"epochs, of which the file keeps {kept}, {seconds:.0f} s together"
            yield _of_training(
                training,
                f"{REACHED if reached else MISSED}: mIoU {score:.3f} after {last} {time} "
                f"(`{training.architecture}`)",
            )

    return find


def training_rate() -> Finder:
    """Return the finder of examples per second, of trainings with pictures enough."""

    def find(results: GpuResults) -> Iterator[Finding]:
        for training in results.trainings:
            read = {split.name: split.read for split in training.splits}
            epochs = training.epochs[1:]  # the first one warms up
            if read.get("train", 0) < MIN_PICTURES_FOR_RATE or not epochs:
                continue
            rate = statistics.median(epoch.examples_per_s for epoch in epochs)
            waiting = sum(epoch.data_seconds for epoch in epochs)
            computing = sum(epoch.compute_seconds for epoch in epochs)
            how = (
                f"`{training.architecture}`, batch {training.recipe_texts.get('batch_size', '?')}, "
                f"{training.recipe_texts.get('crop_size', 'whole pictures')}, AMP {training.amp}"
                f"{', compiled' if training.compiled else ''}"
            )
            yield _of_training(
                training,
                f"{how}: {number(rate)} examples/s, {percent(waiting / (waiting + computing))} of "
                "the time waiting for data",
                how,
            )

    return find


def _of_training(training: Training, result: str, case: str = "") -> Finding:
    versions = f"PyTorch {training.environment.versions.get('torch', 'unknown')}"
    return Finding.of(training.environment, training.device, versions, {case: result})
