"""``fcn-deploy build``: an ONNX file as a TensorRT engine."""

from __future__ import annotations

from pathlib import Path

import click

from fcn_deploy.artifacts import Run
from fcn_deploy.commands.console import build_bar, console
from fcn_deploy.commands.params import Profile, precision_options
from fcn_deploy.errors import InputError
from fcn_deploy.spec import Precision, Product, ShapeProfile


@click.command()
@click.argument("run", required=False, metavar="[RUN|FILE.onnx]")
@click.option(
    "--product", type=click.Choice(["auto", *(product.value for product in Product)]),
    default="auto", show_default=True, help="TensorRT, or TensorRT for RTX cards.",
)  # fmt: skip
@click.option(
    "--profile", "profiles", type=Profile(), multiple=True,
    help="Batch shapes to take, NxHxW each, e.g. 1x32x32:1x320x480:8x1024x2048; may be repeated.",
)  # fmt: skip
@precision_options
@click.option(
    "--workspace", type=click.IntRange(1, 2**20), metavar="MiB", help="Scratch per layer."
)
@click.option("--opt-level", type=click.IntRange(0, 5), help="0 builds fast, 5 runs fast.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Carries timings over.")
@click.option(
    "--compute-capability", metavar="sm89,…", help="GPUs to build for (TensorRT for RTX only)."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default="engines",
    show_default=True, help="Folder of engines.",
)  # fmt: skip
def build(
    run: str | None,
    product: str,
    profiles: tuple[ShapeProfile, ...],
    precision: Precision,
    workspace: int | None,
    opt_level: int | None,
    timing_cache: Path | None,
    compute_capability: str | None,
    out: Path,
) -> None:
    """Compile an exported ONNX file into a TensorRT engine, with its sidecar."""
    from fcn_deploy.build import (
        BuildOptions,
        build_command,
        census,
        engine_from_onnx,
        export_command,
        parse_capabilities,
    )
    from fcn_deploy.trt_api import choose_product

    source = Run.from_argument(run)
    if source.named_engine is not None:
        raise InputError(
            f"{source.named_engine} is an engine already",
            "give a run or an ONNX file to build from",
        )
    capabilities = () if compute_capability is None else parse_capabilities(compute_capability)
    onnx_path = source.require_onnx(precision)
    chosen = choose_product(product)
    options = BuildOptions(profiles, workspace, opt_level, timing_cache, capabilities)
    with build_bar() as on_progress:
        engine = engine_from_onnx(
            onnx_path,
            name=source.name,
            product=chosen,
            options=options,
            folder=out,
            command=build_command(source, precision, chosen, options, out),
            export=export_command(source),
            on_progress=on_progress,
        )
    built = engine.sidecar
    if engine.current:
        console.print(
            f"{engine.path} is current: same ONNX file ({built.onnx_digest[:19]}…), "
            f"{built.release}, {', '.join(built.compute_capabilities)}, profiles and settings"
        )
        return
    if engine.differences:
        console.print(f"built anew, because of {'; '.join(engine.differences)}")
    console.print(
        f"wrote {engine.path}: {built.plan_bytes / 2**20:.1f} MiB in {built.build_seconds:.1f} s; "
        f"{census(built.layers)} ({built.layers_from}); "
        f"profiles {', '.join(map(str, built.profiles))}"
    )
