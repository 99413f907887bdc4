"""``fcn-deploy verify``: does a bundle hold what it says, and its masks on this machine."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.backends import require_backends
from fcn_deploy.commands.shared.console import EXIT_FAILED, console
from fcn_deploy.commands.shared.options import BackendName, PathType, threads_option
from fcn_deploy.commands.shared.runs import result_name
from fcn_deploy.commands.shared.steps import path_word, run_step
from fcn_deploy.commands.verify_checks import VerifyOptions, verified
from fcn_deploy.core.errors import ArtifactError, InputError, WriteError
from fcn_deploy.core.files import probe, read_json, write_json
from fcn_deploy.core.run import BUNDLE_SUFFIX
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.bundle.verification import BackendState, Verification
    from fcn_deploy.core.run import Run


@click.command()
@click.argument("bundle", type=PathType(), metavar="BUNDLE")
@click.option(
    "--run", "running", is_flag=True,
    help="Compute the pictures inside with each backend that runs here, and hold the masks against "
    "those that ride along; an engine that does not fit is built anew.",
)  # fmt: skip
@click.option(
    "--key", type=PathType(), metavar="PUB.pem",
    help="Check the signature with this public key; without it the signature is not checked.",
)  # fmt: skip
@click.option(
    "--backend", "backends", multiple=True, type=BackendName(),
    help="Ask this backend alone; may be repeated; by default all that run ONNX files.",
)  # fmt: skip
@threads_option
@click.option("--json", "json_file", type=PathType(), help="Write the result to this file.")
@click.option(
    "--timing/--no-timing", default=True, show_default=True,
    help="With --run, remember which backends passed, in a folder beside the bundle, and how fast "
    "they are by a quick `bench`: `--backend auto` takes the fastest from there.",
)  # fmt: skip
def verify(**typed: Any) -> None:
    """Check a bundle: digests, signature, backends, and with --run its masks on this machine.

    Exit code 0 where all that was asked for holds, 1 where it does not. Needs no PyTorch.
    """
    options = VerifyOptions(**typed)

    if options.bundle.is_dir():
        raise InputError(
            f"{options.bundle} is a folder",
            f"give the bundle itself, NAME{BUNDLE_SUFFIX}; `model_signing verify key` checks an "
            "unpacked one",
        )
    require_backends(options.backends)
    if options.json_file is not None:
        probe(options.json_file)
    found = verified(options)
    if options.json_file is not None:
        write_json(options.json_file, found.to_json())
        console.print(f"wrote {options.json_file}")
    if options.running and options.timing:
        _remember(found, options.backends)
    if not found.holds:
        sys.exit(EXIT_FAILED)


def _remember(found: Verification, backends: Sequence[str]) -> None:
    """Write the verdicts where commands look for the results of this bundle; time what holds.

    Verdicts that are bad are written as well: else what was proven earlier would still be taken.
    Where that place cannot be written, this is said, and all that was asked for holds still.
    """
    from fcn_deploy.core.run import Run
    from fcn_deploy.parity.compare import save

    run = Run(found.bundle.parent, bundle=found.bundle)
    for one in found.backends:
        if one.failure is not None:
            _forget(run, one)
    comparisons = [one.comparison for one in found.backends if one.comparison is not None]
    if not comparisons:
        return
    target = run.parity_folder / result_name("verify", *backends)
    try:
        probe(target)
        save(comparisons, target)
    except WriteError as error:
        click.echo(f"warning: not remembered: {error.message}", err=True)
        return
    console.print(f"wrote {target}")
    if not found.holds:
        return
    passed = [one for one in found.backends if one.proven]
    precisions = dict.fromkeys(f"--{one.precision.value}" for one in passed)
    words = ["bench", path_word(found.bundle), *precisions, "--tier", "end-to-end", "--quick"]
    if len(precisions) == 1:  # else one of them may lack a backend
        words += [word for one in passed for word in ("--backend", one.backend)]
    if run_step(words) != 0:
        click.echo("warning: not timed: `--backend auto` takes ort", err=True)


def _forget(run: Run, failed: BackendState) -> None:
    """Drop what `verify` found earlier of a backend that fails now, else it would be chosen."""
    computed = {failed.precision.value}
    if failed.precision is Precision.FP32:
        computed.add("bf16")  # of the same file
    for path in run.parity_folder.glob("verify*.json"):
        try:
            document = read_json(path, "")
            found = document["results"]
            kept = [one for one in found if not _is_of(one["candidate"], failed.backend, computed)]
            if len(kept) == len(found):
                continue
            if kept:
                write_json(path, {**document, "results": kept})
            else:
                path.unlink()
        except (ArtifactError, OSError, KeyError, TypeError) as error:
            click.echo(f"warning: {path} is not outdated: {error}", err=True)
            continue
        console.print(f"{path}: the verdict on {failed.backend} is dropped")


def _is_of(candidate: Mapping[str, Any], backend: str, computed: Collection[str]) -> bool:
    return candidate["backend"] == backend and candidate["precision"] in computed
