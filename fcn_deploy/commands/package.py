"""``fcn-deploy package``: a run's model in the form that another server takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathType, precision_options, run_argument
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.triton.model import ServedModel


@dataclass(frozen=True)
class TritonOptions:
    """What was typed; the fields are the parameters of :func:`package_triton`."""

    run: str | None
    out: Path
    backend: str | None
    precision: Precision
    name: str | None
    max_batch: int | None
    overwrite: bool


@click.group(invoke_without_command=True)
@click.pass_context
def package(context: click.Context) -> None:
    """Write a model in the form that another server takes."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@package.command("triton")
@run_argument
@click.option(
    "--out", type=PathType(folder=True), required=True,
    help="Write the repository into this new or empty folder.",
)  # fmt: skip
@click.option(
    "--backend", type=click.Choice(["ort", "trt"]),
    help="Package the ONNX file (ort) or the TensorRT engine (trt) of the run; by default the "
    "ONNX file, or the engine that RUN names.",
)  # fmt: skip
@precision_options
@click.option("--name", help="Call the model so; by default it is named after the run.")
@click.option(
    "--max-batch", type=click.IntRange(1, 2**20),
    help="Let Triton run so many pictures at once; by default 8, or what the engine takes.",
)  # fmt: skip
@click.option(
    "--overwrite", is_flag=True, help="Replace the repository that the folder already holds."
)
def package_triton(**typed: Any) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server."""
    options = TritonOptions(**typed)
    from fcn_deploy.triton.repository import write_repository

    run = run_from_argument(options.run)
    model = _model(run, options)
    written = write_repository(
        model,
        options.out,
        name=run.name if options.name is None else options.name,
        max_batch=options.max_batch,
        overwrite=options.overwrite,
    )
    batches = (
        f"batches of up to {written.max_batch}"
        if written.max_batch
        else f"batches of {model.fixed_batch}"
    )
    shapes = ", ".join("×".join(map(str, shape)) for shape in written.warm_up)
    console.print(
        f"wrote {options.out}: model {written.name} ({model.platform}, {model.precision.value}), "
        f"{batches}, warm-up at {shapes}"
    )
    _say_where_it_runs(model)
    console.print(f"{options.out / 'README.md'} says how to start and ask it")


def _model(run: Run, options: TritonOptions) -> ServedModel:
    from fcn_deploy.triton.model import engine_model, onnx_model

    backend = options.backend or ("ort" if run.named_engine is None else "trt")
    if backend == "trt":
        return engine_model(run, options.precision)
    if run.named_engine is not None:
        raise InputError(f"{run.named_engine} is an engine", "drop --backend ort")
    return onnx_model(run, options.precision)


def _say_where_it_runs(model: ServedModel) -> None:
    from fcn_deploy.triton.containers import IMAGE, container_tag

    engine, tag = model.engine, container_tag(model)
    if engine is not None:
        built_on = f" (built on {engine.gpu_name})" if engine.gpu_name else ""
        console.print(
            f"the engine runs with TensorRT {engine.version} on "
            f"{', '.join(engine.compute_capabilities)}{built_on}, {engine.system}"
        )
    if tag is None:
        console.print("warning: no container is known that has this release of TensorRT")
    else:
        console.print(f"container {IMAGE}:{tag}")
