"""``fcn-deploy build``: an ONNX file as a TensorRT engine."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.console import build_bar, console, new_table, print_table
from fcn_deploy.commands.shared.options import (
    Bytes,
    PathText,
    PathType,
    Profile,
    precision_options,
)
from fcn_deploy.commands.shared.pictures import say_passed_over
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import BatchShape, Precision, Product, ShapeProfile

if TYPE_CHECKING:
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.tensorrt.build import Engine
    from fcn_deploy.tensorrt.profiles import Choice


@dataclass(frozen=True)
class EngineBuildOptions:
    """What was typed; the fields are the parameters of :func:`build`."""

    run: str | None
    product: str
    profiles: tuple[ShapeProfile, ...]
    plan_from: Path | None
    memory: int | None
    batch: int | None
    dry_run: bool
    precision: Precision
    workspace: int | None
    opt_level: int | None
    timing_cache: Path | None
    compute_capability: str | None
    portable: str | None
    out: Path

    def require_consistent(self) -> None:
        """Refuse options that are of no use beside the others.

        Raises:
            click.UsageError: naming the one to drop or to add.
        """
        planning = self.memory is not None or self.batch is not None or self.dry_run
        if self.plan_from is None and planning:
            raise click.UsageError(
                "--memory, --batch and --dry-run belong to --plan-from DIR: add it."
            )
        if self.plan_from is not None and self.profiles:
            raise click.UsageError(
                "--plan-from chooses the profiles itself: drop --profile, or it."
            )


@click.command()
@click.argument("run", required=False, type=PathText(), metavar="[RUN|FILE.onnx|BUNDLE]")
@click.option(
    "--product", type=click.Choice(["auto", *(product.value for product in Product)]),
    default="auto", show_default=True,
    help="Build with TensorRT (trt) or with TensorRT for RTX cards (trt-rtx); auto: with the one "
    "that is installed.",
)  # fmt: skip
@click.option(
    "--profile", "profiles", type=Profile(), multiple=True,
    help="Let the engine take these batch shapes, NxHxW each, e.g. "
    "1x32x32:1x320x480:8x1024x2048; may be repeated.",
)  # fmt: skip
@click.option(
    "--plan-from", type=PathType(folder=True), metavar="DIR",
    help="Choose the profiles by the sizes of the pictures in this folder.",
)  # fmt: skip
@click.option(
    "--memory", type=Bytes(),
    help="With --plan-from, choose profiles whose engine fits into so much memory, e.g. 512MiB.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1),
    help="With --plan-from, let the engine take so many pictures at once at most.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True,
    help="With --plan-from, show which profiles there are to choose from, and build nothing.",
)  # fmt: skip
@precision_options
@click.option(
    "--workspace", type=click.IntRange(1, 2**20), metavar="MiB",
    help="Let each layer use so much device memory as scratch; by default what TensorRT chooses.",
)  # fmt: skip
@click.option(
    "--opt-level", type=click.IntRange(0, 5),
    help="Search so hard for fast kernels: 0 builds fast, 5 runs fast.",
)  # fmt: skip
@click.option(
    "--timing-cache", type=PathType(),
    help="Keep the timings of kernels in this file, so that the next build measures less; by "
    "default in a file beside the engines.",
)  # fmt: skip
@click.option(
    "--compute-capability", metavar="sm89,…",
    help="Build for these GPUs, not for this machine's (TensorRT for RTX only).",
)  # fmt: skip
@click.option(
    "--portable", type=click.Choice(["version", "ampere+"]),
    help="Let the engine run on later releases of TensorRT too (version), or on every GPU from "
    "Ampere on (ampere+); either may make it slower.",
)  # fmt: skip
@click.option(
    "--out", type=PathType(folder=True), default="engines", show_default=True,
    help="Write the engine and its sidecar into this folder.",
)  # fmt: skip
def build(**typed: Any) -> None:
    """Compile an exported ONNX file into a TensorRT engine, with its sidecar."""
    options = EngineBuildOptions(**typed)
    options.require_consistent()
    source = run_from_argument(options.run)
    if source.named_engine is not None:
        raise InputError(
            f"{source.named_engine} is an engine already",
            "give a run or an ONNX file to build from",
        )
    engine = _build_engine(source, options)
    if engine is None:
        return
    from fcn_deploy.tensorrt.layers import layers_in_words

    built = engine.sidecar
    if engine.current:
        console.print(
            f"{engine.path} is current: same ONNX file ({built.onnx_digest[:19]}…), "
            f"{built.release}, {', '.join(built.compute_capabilities)}, profiles and settings"
        )
        return
    for warning in engine.warnings:
        console.print(f"warning: {warning}")
    if engine.differences:
        console.print(f"built anew, because of {'; '.join(engine.differences)}")
    console.print(
        f"wrote {engine.path}: {built.plan_bytes / 2**20:.1f} MiB in {built.build_seconds:.1f} s; "
        f"{layers_in_words(built.layers, built.layers_from)}; "
        f"profiles {', '.join(map(str, built.profiles))}"
    )


def _build_engine(source: Run, options: EngineBuildOptions) -> Engine | None:
    """Build the engine, or find it current; None where only a plan was asked for."""
    from fcn_deploy.graph.onnx_file import OnnxFile
    from fcn_deploy.tensorrt.api import choose_product
    from fcn_deploy.tensorrt.build import engine_from_onnx
    from fcn_deploy.tensorrt.build_missing import build_command, export_command
    from fcn_deploy.tensorrt.build_options import BuildOptions, parse_capabilities
    from fcn_deploy.tensorrt.portability import Portability

    named = options.compute_capability
    capabilities = () if named is None else parse_capabilities(named)
    file = OnnxFile(source.require_onnx(options.precision))
    profiles = options.profiles
    if options.plan_from is not None:
        profiles = _planned(file, options.plan_from, options.memory, options.batch or 1)
        if options.dry_run:
            return None
    product = choose_product(options.product)
    portable = None if options.portable is None else Portability(options.portable)
    settings = BuildOptions(
        profiles,
        options.workspace,
        options.opt_level,
        options.timing_cache,
        capabilities,
        portable,
    )
    with build_bar() as on_progress:
        return engine_from_onnx(
            file,
            name=source.name,
            product=product,
            options=settings,
            folder=options.out,
            command=build_command(source, options.precision, product, settings, options.out),
            export=export_command(source),
            on_progress=on_progress,
        )


def _planned(
    file: OnnxFile, folder: Path, memory: int | None, batch: int
) -> tuple[ShapeProfile, ...]:
    """Show what could be built for the pictures in a folder; return the profiles to build."""
    from fcn_deploy.tensorrt.profiles import choices, choose, engine_bytes, mebibytes, picture_sizes

    sizes = picture_sizes(folder)
    say_passed_over([folder])
    model = file.model

    @functools.cache
    def memory_of(shape: BatchShape) -> int:
        return engine_bytes(model, shape)

    found = choices(sizes, memory_of, batch=batch, limit=memory)
    chosen = choose(found)
    table = new_table(
        f"{_counted(sizes.total(), 'picture')} of {_counted(len(sizes), 'size')} in {folder}",
        (),
        ("profiles", "batch", "pictures at their optimum", "memory (estimated)"),
    )
    table.add_column("")
    for choice in found:
        table.add_row(
            f"{len(choice.profiles)} {'static' if choice.static else 'dynamic'}",
            _batches(choice),
            f"{choice.at_optimum / choice.pictures:.1%}",
            mebibytes(choice.memory),
            "chosen" if choice is chosen else "",
        )
    print_table(table)
    console.print(
        "memory: weights, activations and three batches in flight by the count of the ONNX graph, "
        "not measured; "
        "on a GPU `fcn-deploy bench --tier device` measures each size"
    )
    for profile in chosen.profiles:
        console.print(f"--profile {profile}")
    return chosen.profiles


def _batches(choice: Choice) -> str:
    """Return the largest batch of each profile; of several that differ, also what pictures get."""
    if len(set(choice.batches)) == 1:
        return str(choice.batches[0])
    return f"{', '.join(map(str, choice.batches))} (mean {choice.mean_batch:.1f})"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
