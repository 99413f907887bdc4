"""``predict --engine``: where the masks are made, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.backends import require_backends
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.logits_check import logits_check
from fcn_deploy.commands.shared.proven_backend import ChosenBackend, open_chosen
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.code_trust import code_is_trusted, trusting_code
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.commands.predict import PredictOptions
    from fcn_deploy.predict.engine import Engine
    from fcn_deploy.predict.job import PredictJob
    from fcn_deploy.predict.stream import FiniteCheck
    from fcn_deploy.runners.base import Runner

_RAY = "ray"
_OPTIONS = (
    click.option(
        "--workers", type=click.IntRange(min=1),
        help="Start so many with --engine ray; by default one for each GPU, or for each node.",
    ),
    click.option(
        "--address", metavar="HOST:PORT",
        help="Join this cluster with --engine ray, `auto` for this node's; by default one is "
        "started here.",
    ),
    click.option(
        "--engine", type=click.Choice(["local", _RAY]), default="local", show_default=True,
        help="Make the masks in this process, or on the nodes of a Ray cluster.",
    ),
)  # fmt: skip


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--engine``, ``--address`` and ``--workers``."""
    for option in _OPTIONS:
        command = option(command)
    return command


def require_engine(options: PredictOptions) -> None:
    """Refuse an engine that is not installed, and options of one that was not chosen."""
    if options.engine == _RAY:
        from fcn_deploy.predict.ray_engine import require_ray

        require_ray()
        if options.tiles.given:
            raise InputError("--engine ray cuts no tiles", "use --engine local for large pictures")
    elif options.address or options.workers:
        raise InputError("--address and --workers are of --engine ray", "add it, or drop them")


@dataclass(frozen=True)
class OpenRunner:
    """Opens the runner here, or in a worker, which it is sent to."""

    source: Run
    chosen: ChosenBackend
    precision: Precision
    device: str
    outputs: tuple[str, ...]
    trust_code: bool

    def __call__(self, stack: ExitStack, threads: int | None) -> tuple[Runner, FiniteCheck]:
        """Return a runner and its check; the stack closes both."""
        source, device = self.source, self.device
        if self.trust_code:
            stack.enter_context(trusting_code())
        if source.bundle is not None and not source.root.is_dir():  # not taken out on this node
            source = run_from_argument(source.bundle, source.trusted)
        runner = stack.enter_context(
            open_chosen(source, self.chosen, outputs=self.outputs, device=device, threads=threads)
        )
        return runner, logits_check(
            source,
            runner.describe(),
            stack,
            precision=self.precision,
            threads=threads,
            device=device,
        )


def open_runner(
    source: Run,
    chosen: ChosenBackend,
    options: PredictOptions,
    stack: ExitStack,
    outputs: tuple[str, ...] = ("mask",),
) -> tuple[Runner, FiniteCheck]:
    """Open a runner in this process, and its check; the stack closes both."""
    require_backends([chosen.backend], options.device)
    precision, device = options.precision, options.device
    opener = OpenRunner(source, chosen, precision, device, outputs, trust_code=False)
    return opener(stack, options.threads)


def open_engine(
    source: Run,
    chosen: ChosenBackend,
    options: PredictOptions,
    job: PredictJob,
    stack: ExitStack,
) -> Engine:
    """Open what was asked for to do what is left; the stack closes it."""
    device, outputs = options.device, ("mask", "margin") if options.uncertainty else ("mask",)
    if options.engine != _RAY:
        from fcn_deploy.predict.engine import LocalEngine
        from fcn_deploy.predict.geotiff import require_rasterio
        from fcn_deploy.predict.selection import is_mask_of_map
        from fcn_deploy.predict.tiled_runner import TiledRunner, checked_in_tiles

        if job.has_maps:
            require_rasterio()
        masks = job.selection.masks
        if (options.tiles.bands or options.tiles.scale) and not all(map(is_mask_of_map, masks)):
            console.print("--bands and --scale are of maps alone: pictures are read as they are")
        runner, check = open_runner(source, chosen, options, stack, outputs)
        tiles, batch_size = options.tiles, options.batch_size
        choice = tiles.choice(source, chosen.precision, runner.spec.input_shape, batch_size)
        return LocalEngine(
            TiledRunner(runner, choice.of_picture, batch_size),
            batch_size,
            checked_in_tiles(check, choice.of_picture),
            tiles.maps(choice),
        )
    from fcn_deploy.predict.ray_engine import RayEngine, require_files
    from fcn_deploy.runners.base import find_backend

    require_files(job.selection.items)
    if job.has_maps:
        raise InputError("--engine ray cuts no maps", "use --engine local, or --shard I/N")
    gpu = {"cpu": False, "cuda": True, "auto": None}[find_backend(chosen.backend).runs_on or device]
    unproven = ChosenBackend(chosen.backend, chosen.precision)  # the proof was of this machine
    engine = RayEngine(
        OpenRunner(source, unproven, options.precision, device, outputs, code_is_trusted()),
        options.address,
        options.workers,
        gpu,
        options.threads,
        options.batch_size,
    )
    workers, cpus, gpus = stack.enter_context(engine).plan
    console.print(f"ray: workers {workers}, CPUs of each {cpus}, GPUs of each {gpus}")
    return engine
