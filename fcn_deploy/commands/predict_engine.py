"""``predict --engine``: where the masks are made, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.backends import open_backend, require_backends
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
    from fcn_deploy.predict.stream import FiniteCheck
    from fcn_deploy.runners.base import Runner

RAY = "ray"


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--engine``, ``--address`` and ``--workers``."""
    for option in (
        click.option(
            "--workers", type=click.IntRange(min=1),
            help="With --engine ray: so many; by default one for each GPU, or for each node.",
        ),
        click.option(
            "--address",
            help="With --engine ray: of a cluster that runs already, `auto` for this node's; by "
            "default one is started on this machine.",
        ),
        click.option(
            "--engine", type=click.Choice(["local", RAY]), default="local", show_default=True,
            help="Make the masks in this process, or on the nodes of a Ray cluster.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def require_engine(options: PredictOptions) -> None:
    """Refuse an engine that is not installed, and options of one that was not chosen."""
    if options.engine == RAY:
        from fcn_deploy.predict.ray_engine import require_ray

        require_ray()
    elif options.address is not None or options.workers is not None:
        raise InputError("--address and --workers are options of --engine ray", "add --engine ray")


def open_engine(
    source: Run, chosen: ChosenBackend, options: PredictOptions, stack: ExitStack
) -> Engine:
    """Open what was asked for; the stack closes it."""
    if options.engine == RAY:
        return _ray_engine(source, chosen, options, stack)
    from fcn_deploy.predict.engine import LocalEngine

    require_backends([chosen.backend], options.device)
    threads, device = options.threads, options.device
    runner = stack.enter_context(open_chosen(source, chosen, device=device, threads=threads))
    check = _check(runner, stack, source, options.precision, device, threads)
    return LocalEngine(runner, options.batch_size, check)


def _ray_engine(
    source: Run, chosen: ChosenBackend, options: PredictOptions, stack: ExitStack
) -> Engine:
    from fcn_deploy.predict.ray_engine import RayEngine, RayOptions
    from fcn_deploy.runners.base import find_backend

    runs_on, device = find_backend(chosen.backend).runs_on, options.device
    opener = OpenInWorker(source, chosen.backend, chosen.precision, device, code_is_trusted())
    asked = RayOptions(
        address=options.address,
        workers=options.workers,
        gpu={"cpu": False, "cuda": True, "auto": None}[runs_on or device],
        threads=options.threads,
        batch_size=options.batch_size,
    )
    return stack.enter_context(RayEngine(opener, asked, console.print))


@dataclass(frozen=True)
class OpenInWorker:
    """Opens a runner in a process of another node; called there."""

    source: Run
    backend: str
    precision: Precision
    device: str
    trust_code: bool

    def __call__(self, stack: ExitStack, threads: int | None) -> tuple[Runner, FiniteCheck]:
        """Return a runner and its check; the stack closes both."""
        source, precision, device = self.source, self.precision, self.device
        if self.trust_code:
            stack.enter_context(trusting_code())
        if source.bundle is not None:  # it was taken out on another node
            source = run_from_argument(source.bundle, source.trusted)
        runner = stack.enter_context(
            open_backend(source, self.backend, precision=precision, device=device, threads=threads)
        )
        return runner, _check(runner, stack, source, precision, device, threads)


def _check(
    runner: Runner,
    stack: ExitStack,
    source: Run,
    precision: Precision,
    device: str,
    threads: int | None,
) -> FiniteCheck:
    return logits_check(
        source, runner.describe(), stack, precision=precision, threads=threads, device=device
    )
