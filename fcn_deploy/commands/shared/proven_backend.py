"""``--backend auto``: the fastest backend that was proven on this machine, else the usual one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.shared.backends import default_backend, open_backend
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import BackendName, TextType
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.results.proven import ProvenChoice, Unproven
    from fcn_deploy.results.runner import RunnerDescription
    from fcn_deploy.runners.base import Runner

#: What `--backend` says for the choice by proof; it is the default of the commands that take it.
AUTO = "auto"
#: What a user may allow beside float32.
ALLOWED = ("fp16", "bf16", "int8", "int8x3")


@dataclass(frozen=True)
class ChosenBackend:
    """The backend to open.

    Attributes:
        backend: its name.
        precision: of the model file.
        proven: what was proven here, which it must be; None where nothing was, or where the user
            named the backend.
        asked: the precision that was typed, to which what takes its place keeps.
    """

    backend: str
    precision: Precision
    proven: RunnerDescription | None = None
    asked: Precision = Precision.FP32


class Kinds(TextType):
    """Precisions beside float32, with commas between them."""

    name = "list"

    def read(self, word: str) -> frozenset[str]:
        """Return the set of them."""
        kinds = [kind.strip() for kind in word.split(",")]
        for kind in kinds:
            if kind not in ALLOWED:
                self.fail(f"{kind!r} is none of {', '.join(ALLOWED)}")
        return frozenset(kinds)


def auto_backend_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--backend`` with its default ``auto``, and ``--allow``, a set of kinds."""
    command = click.option(
        "--allow", type=Kinds(), default=frozenset(), metavar="fp16,bf16,int8,int8x3",
        help="Let `--backend auto` choose among these as well; by default it takes float32 alone.",
    )(command)  # fmt: skip
    return click.option(
        "--backend", type=BackendName(AUTO), default=AUTO, show_default=True,
        help="Compute with this backend. `auto`: the fastest whose masks were proven on this "
        "machine, by `ship` or by `parity` and `bench`; else ort where the run has been exported, "
        "else torch.",
    )(command)  # fmt: skip


def choose_backend(
    source: Run,
    backend: str = AUTO,
    *,
    precision: Precision = Precision.FP32,
    allowed: frozenset[str] = frozenset(),
    device: str = "auto",
) -> ChosenBackend:
    """Return the backend that was named, or with ``auto`` the fastest proven here; say which.

    Args:
        source: the run.
        backend: as typed.
        precision: that was typed; one beside float32 is kept to.
        allowed: of ``--allow``.
        device: as typed; PyTorch's, so that with one typed nothing is chosen by proof.

    Raises:
        MissingStageError: naming the export that is missing.
    """
    if backend != AUTO:
        return ChosenBackend(backend, precision)
    usual = ChosenBackend(default_backend(source, precision), precision)
    if device != "auto" or source.named_engine is not None:
        return usual
    kinds = {precision.value} | (allowed if precision is Precision.FP32 else frozenset())
    from fcn_deploy.results.proven import Unproven

    found = _proven(source, kinds)
    if isinstance(found, Unproven):
        console.print(f"backend: {usual.backend}; {found.value}{_how_to_prove(source)}")
        return usual
    console.print(f"backend: {found}")
    return ChosenBackend(found.backend, found.precision, found.runner, asked=precision)


def open_chosen(
    source: Run,
    chosen: ChosenBackend,
    *,
    outputs: Sequence[str] = ("mask",),
    device: str = "auto",
    threads: int | None = None,
) -> Runner:
    """Open the chosen backend; where it is not what was proven any more, the usual one, aloud.

    Args:
        source: the run.
        chosen: by :func:`choose_backend`.
        outputs: of ``mask``, ``logits``, ``margin``.
        device: of those backends that take one.
        threads: CPU threads.
    """
    if chosen.proven is None:
        return open_backend(
            source,
            chosen.backend,
            precision=chosen.precision,
            outputs=outputs,
            device=device,
            threads=threads,
        )
    from fcn_deploy.results.proven import same_runner
    from fcn_deploy.runners.base import open_runner

    try:
        # Nothing is built for it: what was proven is there, or something else is taken.
        runner = open_runner(
            source, chosen.backend, precision=chosen.precision, outputs=outputs, threads=threads
        )
    except FcnDeployError as error:
        reason = f"{chosen.backend} was proven here and cannot be opened now: {error.message}"
    else:
        if same_runner(runner.describe(), chosen.proven):
            return runner
        reason = _difference(runner.describe(), chosen.proven)
        runner.close()
    usual = ChosenBackend(default_backend(source, chosen.asked), chosen.asked)
    click.echo(f"warning: {reason}; {usual.backend}{chosen.asked.flag} is taken", err=True)
    return open_chosen(source, usual, outputs=outputs, device=device, threads=threads)


def _how_to_prove(source: Run) -> str:
    if source.bundle is not None:
        command = f"verify{source.command_suffix} --run"
    elif source.checkpoint.is_file() or source.is_foreign:
        command = f"ship{source.command_suffix}"
    else:  # a file that was copied here: what it must equal is elsewhere
        return ""
    return f" (`fcn-deploy {command}` finds the fastest)"


def _difference(opened: RunnerDescription, proven: RunnerDescription) -> str:
    if opened.library != proven.library:
        return f"{opened.library} is not what was proven, {proven.library}"
    if opened.digest != proven.digest:
        return f"{opened.file} is not the file that was proven"
    return f"{opened.backend} runs otherwise than when it was proven: on {opened.device}"


def _proven(source: Run, kinds: set[str]) -> ProvenChoice | Unproven:
    from functools import cache

    from fcn_deploy.core.files import file_digest
    from fcn_deploy.results.proven import choose_proven, file_precision
    from fcn_deploy.results.read import read_proofs

    digest_of = cache(file_digest)

    def is_current(runner: RunnerDescription) -> bool:
        file = source.onnx(file_precision(runner))
        if runner.on_gpu and Path(runner.file).suffix == ".plan":
            file = Path(runner.file)
        return file.is_file() and digest_of(file) == runner.digest

    proofs = read_proofs(source)
    for line in proofs.unread:
        click.echo(f"warning: it proves nothing: {line}", err=True)
    return choose_proven(proofs.parity_files, proofs.benches, kinds=kinds, is_current=is_current)
