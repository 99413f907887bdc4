"""`--build`: the engines that a command needs, those that are missing built on the way."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.machine import cuda
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.build_options import BuildOptions, timing_cache_problem
from fcn_deploy.tensorrt.callbacks import OnProgress
from fcn_deploy.tensorrt.engine_file import ENGINES_FOLDER, EngineSidecar, read_sidecar
from fcn_deploy.tensorrt.engine_match import engine_folders, newest_engine
from fcn_deploy.tensorrt.portability import portability_of


def ensure_engine(
    run: Run,
    precision: Precision,
    *,
    outputs: Iterable[str] = ("mask",),
    product: str = "auto",
    folder: Path = ENGINES_FOLDER,
    timing_cache: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress | None = None,
) -> None:
    """Make sure that the runner of TensorRT finds what it needs, building what is missing.

    A mask always comes from the engine of the file as shipped.  Where logits or margins are asked
    for and the file gives none, a second engine is built from the same graph with its logits made
    visible, for the same batch shapes: a shape that the first takes must not fail in the second.

    Args:
        run: the model.
        precision: of the engine.
        outputs: that the runner will be asked for.
        product: ``auto``, ``trt`` or ``trt-rtx``.
        folder: where engines lie.
        timing_cache: of :class:`BuildOptions`; None: the one that the engine of the masks was built
            with, else the folder's own.
        say: takes a line before each build.
        on_progress: as for :func:`engine_from_onnx`.

    Raises:
        BackendError: TensorRT or the GPU is missing; the message says which and what to install.
    """
    if run.named_engine is not None:
        return
    chosen = api.choose_product(product)
    version = api.installed_version(chosen)
    capability = cuda.describe_gpu().compute_capability
    file = OnnxFile(run.require_onnx(precision))
    engines = _Engines(
        run,
        file,
        chosen,
        version,
        capability,
        folder,
        timing_cache,
        say,
        on_progress,
    )
    shipped = engines.of_masks()
    hidden = set(outputs) - set(file.metadata.outputs)
    if hidden and "logits" not in file.metadata.outputs:
        engines.require_logits(shipped)


@dataclass(frozen=True)
class _Engines:
    """The engines of one ONNX file for one GPU: those that are there, and the means to build.

    Attributes:
        run: the model.
        file: its ONNX file, as shipped.
        product: which TensorRT.
        version: of the one that is installed.
        capability: of this machine's GPU.
        folder: where engines lie.
        timing_cache: for the builds, or None.
        say: takes a line before each build.
        on_progress: told how a build goes on.
    """

    run: Run
    file: OnnxFile
    product: Product
    version: str
    capability: str
    folder: Path
    timing_cache: Path | None
    say: Callable[[str], None]
    on_progress: OnProgress | None

    def of_masks(self) -> EngineSidecar:
        """Return the engine of the file as shipped, built where there is none."""
        found, reason = self._find("mask", onnx_digest=self.file.digest)
        if found is not None:
            return read_sidecar(found)
        options, precision = self._options(), self.file.metadata.precision
        command = build_command(self.run, precision, self.product, options, self.folder)
        return self._build(self.file, self.run.name, reason, options, command)

    def require_logits(self, shipped: EngineSidecar) -> None:
        """Build the engine that shows the logits, unless it is there with the masks' profiles."""
        # A file exported anew keeps its checkpoint: it is the file that must be the masks' own.
        digest = self.file.digest
        found, reason = self._find("logits", source_digest=digest)
        if found is not None and read_sidecar(found).profiles == shipped.profiles:
            return
        if found is not None:
            reason = f"{found} has other profiles than the engine of the masks"
        name = f"{self.run.name}.logits"
        exposed = self.folder / f"{name}.{self.file.metadata.precision.value}.onnx"
        write_bytes(exposed, with_logits(self.file.model).SerializeToString())
        try:
            # It follows the masks' engine: to change this one is to rebuild that one.
            options = self._options(shipped)
            self._build(OnnxFile(exposed), name, reason, options, shipped.command, digest)
        finally:
            exposed.unlink()  # made for this build alone

    def _find(
        self, output: str, *, onnx_digest: str | None = None, source_digest: str | None = None
    ) -> tuple[Path | None, str]:
        found, reason = None, ""
        for folder in dict.fromkeys((*engine_folders(self.run)[:-1], self.folder)):
            found, reason = newest_engine(
                folder,
                product=self.product,
                version=self.version,
                compute_capability=self.capability,
                precision=self.file.metadata.precision,
                outputs=(output,),
                onnx_digest=onnx_digest,
                source_digest=source_digest,
            )
            if found is not None:
                break
        return found, reason

    def _options(self, shipped: EngineSidecar | None = None) -> BuildOptions:
        """Return how to build, like the engine that is there already where there is one."""
        options = BuildOptions(
            timing_cache=self.timing_cache,
            compute_capabilities=_capabilities_here(self.product, self.capability),
        )
        if shipped is None:
            return options
        flags = shipped.flags
        cache = self.timing_cache
        named = Path(flags.get("timing_cache") or "")
        # Named to another command: where it is of no use any more, the folder's own serves.
        if cache is None and named.is_file() and timing_cache_problem(named) is None:
            cache = named
        return replace(
            options,
            profiles=shipped.profiles,
            workspace_mib=flags.get("workspace_mib"),
            optimization_level=flags.get("optimization_level"),
            timing_cache=cache,
            portable=portability_of(flags),
        )

    def _build(
        self,
        source: OnnxFile,
        name: str,
        reason: str,
        options: BuildOptions,
        command: str,
        source_digest: str | None = None,
    ) -> EngineSidecar:
        self.say(f"no engine fits ({reason}): building one from {self.file.path}")
        engine = engine_from_onnx(
            source,
            name=name,
            product=self.product,
            options=options,
            folder=self.folder,
            command=command,
            export=export_command(self.run),
            on_progress=self.on_progress,
            source_digest=source_digest,
        )
        for warning in engine.warnings:
            self.say(f"warning: {warning}")
        return engine.sidecar


def _capabilities_here(product: Product, capability: str) -> tuple[str, ...]:
    """Return what to build for, so that the engine runs on this GPU; empty: the default does.

    Raises:
        BackendError: the product does not run on this GPU.
    """
    tensorrt = api.load(product)
    if not tensorrt.chooses_capabilities or capability in api.RTX_DEFAULT_CAPABILITIES:
        return ()
    if capability not in tensorrt.known_capabilities:
        raise BackendError(
            f"{tensorrt.label} does not run on {capability}, this machine's GPU, but on "
            f"{', '.join(tensorrt.known_capabilities)}",
            "use TensorRT itself here: pip install 'fcn-deploy[trt]'",
        )
    return (capability,)


def build_command(
    run: Run,
    precision: Precision,
    product: Product,
    options: BuildOptions | None = None,
    folder: Path = ENGINES_FOLDER,
) -> str:
    """Return the words that build a run's engine."""
    if (named := _named_onnx(run)) is not None:
        source = f" {shlex.quote(str(named))}"
    else:
        source = run.command_suffix + precision.flag
    settings = "" if options is None else options.cli_options()
    out = "" if folder == ENGINES_FOLDER else f" --out {shlex.quote(str(folder))}"
    return f"fcn-deploy build{source} --product {product.value}{settings}{out}"


def export_command(run: Run) -> str:
    """Return the words that write a run's ONNX file, short of its precision and outputs."""
    named = _named_onnx(run)
    out = "" if named is None else f" --out {shlex.quote(str(named))}"
    return f"fcn-deploy export{run.command_suffix}{out}"


def _named_onnx(run: Run) -> Path | None:
    named = run.named_file
    return named if named is not None and named.suffix == ".onnx" else None
