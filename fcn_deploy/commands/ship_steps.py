"""The steps of `ship`, and whether what each would make is there and is current.

    export ─▶ build ─▶ parity ─▶ bench ─▶ bundle ─▶ verify
    (each precision)            (all in turns)

A result is current if it comes from this machine with these versions, was made by the same words,
and names the model files and the pictures as they are now, by digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.bundle_making import BundleOptions, certified_on
from fcn_deploy.commands.shared.console import console, silenced
from fcn_deploy.commands.shared.steps import path_word
from fcn_deploy.core.errors import ArtifactError, FcnDeployError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.results.environment import Environment
    from fcn_deploy.results.read import Proofs
    from fcn_deploy.results.runner import RunnerDescription

#: What `--target` takes beside the products of TensorRT.
ALL, CPU = "all", "cpu"
#: What is written between the steps: which bundle was verified here.
VERIFIED = "verified.json"


@dataclass(frozen=True)
class ShipOptions:
    """What was typed; the fields are the parameters of `ship`."""

    run: str | None
    target: str
    fp16: bool
    int8: bool
    out: Path | None
    count: int
    data: str | None
    pictures: Path | None
    limit: int | None
    quick: bool
    key: Path | None
    public_key: Path | None

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Float32, which the others are held against, and those that were typed."""
        more = {Precision.FP16: self.fp16, Precision.INT8: self.int8}
        return (Precision.FP32, *(one for one, typed in more.items() if typed))


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        words: behind ``fcn-deploy``, known when those before it are done.
        current: says what is there already and current, or None.
    """

    words: Callable[[], tuple[str, ...]]
    current: Callable[[], str | None]


def ship_steps(source: Run, options: ShipOptions) -> Iterator[Step]:
    """Yield the steps in order; each is looked at when those before it are done."""
    for precision in options.precisions:
        yield _export(source, precision)
    if options.target not in (ALL, CPU):
        for precision in options.precisions:
            if precision is not Precision.FP32:
                yield _build(source, precision, options.target)
    backends = _backends(options.target)
    if options.target == CPU:
        backends = _fitting(source, backends)
    shown = cache(lambda: _pictures_digest(source, options))  # decodes them all: once
    for precision in options.precisions:
        yield _parity(source, precision, backends, options, shown)
    yield _bench(source, backends, options)
    yield _bundle(source, options)
    yield _verify(source, options)


def bundle_file(source: Run, options: ShipOptions) -> Path:
    """Return where the bundle is written."""
    return _bundle_options(options).target(source)


def _bundle_options(options: ShipOptions) -> BundleOptions:
    return BundleOptions(
        out=options.out,
        count=options.count,
        data=options.data,
        pictures=options.pictures,
        key=options.key,
    )


def _run_words(source: Run) -> tuple[str, ...]:
    return (path_word(source.root),)


def _flag(precision: Precision) -> tuple[str, ...]:
    return (precision.flag.strip(),) if precision.flag else ()


def _export(source: Run, precision: Precision) -> Step:
    def current() -> str | None:
        from fcn_deploy.graph.onnx_file import require_model

        with suppress(ArtifactError):
            return f"{require_model(source, precision).path} is of this checkpoint"
        return None

    return Step(lambda: ("export", *_run_words(source), *_flag(precision)), current)


def _build(source: Run, precision: Precision, product: str) -> Step:
    def current() -> str | None:
        plan = _engine(source, precision)
        return None if plan is None else f"{plan} fits this machine"

    words = ("build", *_run_words(source), *_flag(precision), "--product", product)
    return Step(lambda: words, current)


def _engine(source: Run, precision: Precision) -> Path | None:
    """Return the engine that `--backend trt` would take here, or None."""
    from fcn_deploy.machine import cuda
    from fcn_deploy.runners.base import unavailable_reason
    from fcn_deploy.tensorrt.engine_match import RunModel, find_engine

    if unavailable_reason("trt") is not None:
        return None
    capability = cuda.describe_gpu().compute_capability
    with suppress(FcnDeployError):
        return find_engine(RunModel(source, precision), ("mask",), capability)
    return None


def _backends(target: str) -> tuple[str, ...]:
    """Return `--backend` options; none where all that runs here is taken."""
    from fcn_deploy.runners.base import BACKENDS, find_backend

    if target == ALL:
        return ()
    if target != CPU:
        return ("--backend", "trt")
    found = [find_backend(name) for name in BACKENDS if not name.startswith("torch")]
    names = [
        backend.name
        for backend in found
        if backend.runs_on == "cpu" and not backend.on_request and not backend.unavailable_reason()
    ]
    return tuple(word for name in names for word in ("--backend", name))


def _fitting(source: Run, backends: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the options whose backend can compute the network at all; say which not."""
    from fcn_deploy.core.errors import BackendError, OnnxFileError, UnfitNetworkError
    from fcn_deploy.runners.base import open_runner

    unfit = (BackendError, OnnxFileError) if source.is_foreign else UnfitNetworkError
    names = list(backends[1::2])
    for name in backends[1::2]:
        try:
            open_runner(source, name).close()
        except unfit as error:
            if len(names) > 1:
                console.print(f"{name} is left out: {error}")
                names.remove(name)
        except FcnDeployError:  # its step says so
            continue
    return tuple(word for name in names for word in ("--backend", name))


def _kept(backends: Sequence[str], precision: Precision) -> tuple[str, ...]:
    """Return those of the options whose backend takes files of a precision."""
    from fcn_deploy.runners.base import find_backend

    names = [name for name in backends[1::2] if find_backend(name).takes(precision)]
    return tuple(word for name in names for word in ("--backend", name))


def _proofs(source: Run) -> tuple[Proofs, Environment]:
    from fcn_deploy.results.environment import Environment
    from fcn_deploy.results.read import read_proofs

    return read_proofs(source), Environment.current()


def _made_here(then: Environment, now: Environment) -> bool:
    return then.same_machine(now) and then.versions == now.versions


def _digests(source: Run, precisions: Iterable[Precision]) -> frozenset[str]:
    """Return the digests of the model files that figures may come from: ONNX files and engines."""
    from fcn_deploy.core.files import file_digest

    found = [source.onnx(precision) for precision in precisions]
    found += [plan for precision in precisions if (plan := _engine(source, precision))]
    return frozenset(file_digest(path) for path in found if path.is_file())


def _are_current(
    source: Run, runners: Iterable[RunnerDescription], digests: frozenset[str]
) -> bool:
    """Say whether rows are of the files as they are now; PyTorch's are of the checkpoint."""
    from fcn_deploy.core.files import file_digest

    checkpoint = source.original if source.is_foreign else source.checkpoint
    now = file_digest(checkpoint) if checkpoint.is_file() else None
    return all(
        runner.checkpoint_digest == now and (runner.digest in digests or runner.digest == now)
        for runner in runners
        if not runner.is_baseline
    )


def _parity(
    source: Run,
    precision: Precision,
    backends: tuple[str, ...],
    options: ShipOptions,
    shown: Callable[[], str | None],
) -> Step:
    typed = (*_kept(backends, precision), *_flag(precision))
    if options.data is not None:
        typed += ("--data", options.data)
    if options.pictures is not None:
        typed += ("--images", str(options.pictures))
    if options.limit is not None:
        typed += ("--limit", str(options.limit))

    def current() -> str | None:
        proofs, now = _proofs(source)
        digests = _digests(source, (precision,))
        for file in reversed(proofs.parity_files):
            runners = [one.candidate for one in file.comparisons]
            if _made_here(file.environment, now) and _are_current(source, runners, digests):
                if not all(one.passed for one in file.comparisons):
                    return None  # whatever was asked: an older verdict is outdated
                if _same_words(file.options, typed):
                    if any(one.images.digest != shown() for one in file.comparisons):
                        return None
                    return f"the gate passed in {file.environment.file}"
        return None

    return Step(lambda: ("parity", *_run_words(source), *typed), current)


def _pictures_digest(source: Run, options: ShipOptions) -> str | None:
    """Return the digest of the pictures to prove on as they are now; None where they are gone."""
    from fcn_deploy.commands.shared.pictures import parity_pictures
    from fcn_deploy.graph.onnx_file import require_model

    with suppress(FcnDeployError), silenced():
        spec = require_model(source, Precision.FP32).metadata.spec
        pictures, limit = options.pictures, options.limit
        shown = parity_pictures(source, spec, options.data, pictures, held_out=None, limit=limit)
        return shown.digest()
    return None


def _same_words(made: Sequence[str] | None, typed: Sequence[str]) -> bool:
    return made is not None and sorted(made) == sorted(typed)


def _bench(source: Run, backends: tuple[str, ...], options: ShipOptions) -> Step:
    flags = [f"--{precision.value}" for precision in options.precisions]
    typed = (*flags, "--tier", "end-to-end", "--no-cold-start")
    if len(options.precisions) > 1:  # a backend that lacks one of them is no fault here
        backends = ()
    typed = (*backends, *typed, *(("--quick",) if options.quick else ()))

    def current() -> str | None:
        proofs, now = _proofs(source)
        digests = _digests(source, options.precisions)
        for bench in reversed(proofs.benches):
            runners = [row.runner for row in bench.rows]
            if (
                _made_here(bench.environment, now)
                and _same_words(bench.options, typed)
                and _are_current(source, runners, digests)
            ):
                return f"timed in {bench.environment.file}"
        return None

    return Step(lambda: ("bench", *_run_words(source), *typed), current)


def _bundle(source: Run, options: ShipOptions) -> Step:
    file = bundle_file(source, options)

    def engines() -> list[Path]:
        if options.target == CPU:
            return []
        found = [_engine(source, precision) for precision in options.precisions]
        return [plan for plan in found if plan is not None]

    def words() -> tuple[str, ...]:
        typed = ["--out", str(file), "--images", str(options.count)]
        for plan in engines():
            typed += ["--engine", str(plan)]
        for flag, value in (
            ("--data", options.data),
            ("--pictures", options.pictures),
            ("--sign", options.key),
        ):
            if value is not None:
                typed += [flag, str(value)]
        return ("bundle", *_run_words(source), *typed)

    def current() -> str | None:
        from fcn_deploy.bundle.contents import gather
        from fcn_deploy.bundle.extraction import holds_files
        from fcn_deploy.data.images import image_digest

        with suppress(FcnDeployError), silenced():
            contents = gather(source, engines())
            chosen = certified_on(source, contents.spec, _bundle_options(options))
            pictures = [image_digest(picture.image) for picture in chosen]
            if file.is_file() and holds_files(
                file, contents.files(), pictures=pictures, key=options.key
            ):
                return f"{file} holds these files"
        return None

    return Step(words, current)


def _verify(source: Run, options: ShipOptions) -> Step:
    file = bundle_file(source, options)
    record = source.root / VERIFIED
    keys = () if options.public_key is None else ("--key", str(options.public_key))
    words = ("verify", path_word(file), "--run", *keys, "--json", str(record), "--no-timing")

    def current() -> str | None:
        from fcn_deploy.bundle.verification import verified_before

        with suppress(ArtifactError):
            if record.is_file() and verified_before(record, file, key=options.public_key):
                return f"{record} says that {file} holds here"
        return None

    return Step(lambda: words, current)
