"""`--build`: build what a command lacks."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
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
from fcn_deploy.tensorrt.build_options import BuildOptions
from fcn_deploy.tensorrt.callbacks import OnProgress
from fcn_deploy.tensorrt.engine_file import ENGINES_FOLDER, EngineSidecar, read_sidecar
from fcn_deploy.tensorrt.engine_match import newest_engine


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
        timing_cache: of :class:`BuildOptions`.
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
    metadata = file.metadata

    def find(
        asked: str, *, onnx_digest: str | None = None, checkpoint_digest: str | None = None
    ) -> tuple[Path | None, str]:
        return newest_engine(
            folder,
            product=chosen,
            version=version,
            compute_capability=capability,
            precision=metadata.precision,
            outputs=(asked,),
            onnx_digest=onnx_digest,
            checkpoint_digest=checkpoint_digest,
        )

    def build(
        source: OnnxFile, name: str, reason: str, shipped: EngineSidecar | None = None
    ) -> EngineSidecar:
        options = BuildOptions(
            profiles=() if shipped is None else shipped.profiles,
            timing_cache=timing_cache,
            compute_capabilities=_capabilities_here(chosen, capability),
        )
        say(f"no engine fits ({reason}): building one from {file.path}")
        if shipped is None:
            command = build_command(run, precision, chosen, options, folder)
        else:  # it follows the masks' engine: to change this one is to rebuild that one
            command = shipped.command
        return engine_from_onnx(
            source,
            name=name,
            product=chosen,
            options=options,
            folder=folder,
            command=command,
            export=export_command(run),
            on_progress=on_progress,
        ).sidecar

    found, reason = find("mask", onnx_digest=file.digest)
    shipped = build(file, run.name, reason) if found is None else read_sidecar(found)
    hidden = set(outputs) - set(metadata.outputs)
    if not hidden or "logits" in metadata.outputs:
        return
    found, reason = find("logits", checkpoint_digest=metadata.checkpoint_digest)
    if found is not None and read_sidecar(found).profiles != shipped.profiles:
        found, reason = None, f"{found} has other profiles than the engine of the masks"
    if found is None:
        exposed = folder / f"{run.name}.logits.{metadata.precision.value}.onnx"
        write_bytes(exposed, with_logits(file.model).SerializeToString())
        try:
            build(OnnxFile(exposed), f"{run.name}.logits", reason, shipped)
        finally:
            exposed.unlink()  # made for this build alone


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
    words = "" if options is None else options.words()
    out = "" if folder == ENGINES_FOLDER else f" --out {shlex.quote(str(folder))}"
    return f"fcn-deploy build{source} --product {product.value}{words}{out}"


def export_command(run: Run) -> str:
    """Return the words that write a run's ONNX file, short of its precision and outputs."""
    named = _named_onnx(run)
    out = "" if named is None else f" --out {shlex.quote(str(named))}"
    return f"fcn-deploy export{run.command_suffix}{out}"


def _named_onnx(run: Run) -> Path | None:
    named = run.named_file
    return named if named is not None and named.suffix == ".onnx" else None
