"""``fcn-deploy verify``: does a bundle hold what it says, and its masks on this machine."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.backends import open_backend, require_backends
from fcn_deploy.commands.shared.console import EXIT_FAILED, console, counter
from fcn_deploy.commands.shared.options import BackendName, PathType, threads_option
from fcn_deploy.commands.shared.steps import run_step
from fcn_deploy.core.errors import InputError, WriteError
from fcn_deploy.core.run import BUNDLE_SUFFIX
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.bundle.extraction import Extraction
    from fcn_deploy.bundle.verification import BackendState, Verification
    from fcn_deploy.runners.base import Runner

_UNCHECKED = "signature not checked: give its maker's public key with --key"


@dataclass(frozen=True)
class VerifyOptions:
    """What was typed; the fields are the parameters of :func:`verify`."""

    bundle: Path
    running: bool
    key: Path | None
    backends: tuple[str, ...]
    threads: int | None
    json_file: Path | None
    timing: bool


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
    from fcn_deploy.core.files import probe, write_json

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
    if not found.holds:
        sys.exit(EXIT_FAILED)
    if options.running and options.timing:
        _remember(found)


def _remember(found: Verification) -> None:
    """Write what was proven where commands look for the results of this bundle, and time it.

    Where that place cannot be written, this is said, and all that was asked for holds still.
    """
    from fcn_deploy.core.files import probe
    from fcn_deploy.core.run import Run
    from fcn_deploy.parity.compare import save

    comparisons = [one.comparison for one in found.backends if one.comparison is not None]
    run = Run(found.bundle.parent, bundle=found.bundle)
    target = run.parity_folder / "verify.json"
    try:
        probe(target)
        save(comparisons, target)
    except WriteError as error:
        click.echo(f"warning: not remembered: {error.message}", err=True)
        return
    console.print(f"wrote {target}")
    passed = [one for one in found.backends if one.proven]
    precisions = dict.fromkeys(f"--{one.precision.value}" for one in passed)
    backends = dict.fromkeys(one.backend for one in passed)
    words = ["bench", str(found.bundle), *precisions, "--tier", "end-to-end", "--quick"]
    if len(precisions) == 1:  # else one of them may lack a backend
        words += [word for name in backends for word in ("--backend", name)]
    if run_step(words) != 0:
        click.echo("warning: not timed: `--backend auto` takes ort", err=True)


def verified(options: VerifyOptions) -> Verification:
    """Check a bundle, print what is found, and return it; nothing of it stays on the disk.

    Raises:
        FcnDeployError: it is no bundle, the key is none, or what checks it is not installed.
    """
    from fcn_deploy.bundle.extraction import contradictions, extract
    from fcn_deploy.bundle.signature import signature_problem
    from fcn_deploy.bundle.verification import Verification
    from fcn_deploy.core.files import file_digest

    bundle = options.bundle
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-verify-") as folder:
        extraction = extract(bundle, Path(folder))
        digest = file_digest(bundle)
        faults = extraction.faults or contradictions(extraction)
        signature: str | None = _UNCHECKED if extraction.signed else "the bundle is not signed"
        if options.key is not None:
            signature = signature_problem(extraction.folder, options.key)
        _say_files(extraction, faults, signature, asked=options.key is not None)
        refused = bool(faults) or (options.key is not None and signature is not None)
        backends = () if refused else _backends(extraction, options)
    return Verification(
        bundle, digest, faults, signature, options.key is not None, options.running, backends
    )


def _say_files(
    extraction: Extraction, faults: Sequence[str], signature: str | None, *, asked: bool
) -> None:
    manifest = extraction.manifest
    console.print(
        f"{extraction.bundle}: {manifest.name}, {manifest.spec.architecture}, "
        f"{manifest.spec.num_classes} classes, {len(manifest.files)} files"
    )
    for fault in faults:
        console.print(f"FAILED  {fault}")
    if not faults:
        console.print("digests: every file has the SHA-256 that the manifest names")
    if signature is None:
        console.print("signature: good")
    else:
        console.print(f"FAILED  signature: {signature}" if asked else f"signature: {signature}")


def _backends(extraction: Extraction, options: VerifyOptions) -> tuple[BackendState, ...]:
    from fcn_deploy.bundle.certificate import read_certificate
    from fcn_deploy.bundle.verification import State, backend_states, proven_states

    run = extraction.run(trusted=options.key is not None)  # its signature holds
    states = backend_states(run, extraction.manifest, options.backends)
    if not options.running:
        for state in states:
            _say(state)
        return states

    def open_one(backend: str, precision: Precision, outputs: tuple[str, ...]) -> Runner:
        return open_backend(
            run, backend, precision=precision, outputs=outputs, threads=options.threads
        )

    certificate = read_certificate(run.certificate)
    running = sum(state.state is not State.CANNOT for state in states)
    found = []
    with counter("verify", running * certificate.pictures().count) as step:
        for state in proven_states(states, certificate, open_one, on_picture=step):
            _say(state)
            found.append(state)
    if not any(state.proven for state in found):
        console.print("FAILED  no backend's masks have passed the gate here")
    return tuple(found)


def _say(state: BackendState) -> None:
    name = f"{state.backend:<16}{state.precision.value:<6}"
    if state.comparison is None:
        words = state.failure or state.state.value + (f": {state.reason}" if state.reason else "")
        console.print(f"{'FAILED  ' if state.failure else ''}{name}{words}")
        return
    comparison = state.comparison
    pixels = f"{comparison.flips:,} of {comparison.images.pixels:,} pixels have another class"
    if comparison.passed:
        console.print(f"{name}same masks by the gate of `parity`: {pixels}")
        return
    console.print(f"FAILED  {name}other masks: {pixels}")
    for check in comparison.checks:
        if not check.passed:
            console.print(f"        {check.name}: {check.sentence}")
    for sentence in comparison.diagnosis:
        console.print(f"        {sentence}")
