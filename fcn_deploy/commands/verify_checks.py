"""The checks of `verify`: what holds of a bundle on this machine, said line by line."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.backends import open_backend
from fcn_deploy.commands.shared.console import console, counter, printable
from fcn_deploy.core.errors import BundleError
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.bundle.extraction import Extraction
    from fcn_deploy.bundle.verification import BackendState, Verification
    from fcn_deploy.runners.base import Runner

_UNCHECKED = "signature not checked: give its maker's public key with --key"


@dataclass(frozen=True)
class VerifyOptions:
    """What was typed; the fields are the parameters of `verify`.

    Attributes:
        bundle: the archive.
        running: whether its masks are computed.
        key: public key that checks its signature; None: it is not checked.
        backends: to ask; none: all that run ONNX files.
        threads: CPU threads.
        json_file: where the result goes, or None.
        timing: whether what passes is remembered and timed.
    """

    bundle: Path
    running: bool
    key: Path | None
    backends: tuple[str, ...]
    threads: int | None
    json_file: Path | None
    timing: bool


def verified(options: VerifyOptions) -> Verification:
    """Check a bundle, print what is found, and return it; nothing of it stays on the disk.

    Raises:
        FcnDeployError: it is no bundle, the key is none, or what checks it is not installed.
    """
    from fcn_deploy.bundle.extraction import contradictions, extract, opened_archive
    from fcn_deploy.bundle.signature import signature_problem
    from fcn_deploy.bundle.verification import Verification
    from fcn_deploy.core.files import file_digest

    bundle = options.bundle
    key = None
    with opened_archive(bundle):  # it is there, and is a bundle
        digest = file_digest(bundle)
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-verify-") as folder:
        extraction = extract(bundle, Path(folder))
        faults = extraction.faults or contradictions(extraction)
        signature: str | None = _UNCHECKED if extraction.signed else "the bundle is not signed"
        if options.key is not None:
            signature = signature_problem(extraction.folder, options.key)
            key = file_digest(options.key) if signature is None else None
        _say_files(extraction, faults, signature, asked=options.key is not None)
        refused = bool(faults) or (options.key is not None and signature is not None)
        backends = () if refused else _backends(extraction, options)
    if file_digest(bundle) != digest:
        raise BundleError(f"{bundle} was exchanged while it was verified", "verify it again")
    found = Verification(
        bundle, digest, faults, signature, options.key is not None, key, options.running, backends
    )
    if options.running and not refused:
        for precision in found.unproven:
            console.print(f"FAILED  no backend's {precision.value} masks have passed the gate here")
    return found


def _say_files(
    extraction: Extraction, faults: Sequence[str], signature: str | None, *, asked: bool
) -> None:
    manifest = extraction.manifest
    # Nothing of a bundle reaches a terminal that could write a verdict of its own, or hide one.
    _print(
        f"{extraction.bundle}: {manifest.name}, {manifest.spec.architecture}, "
        f"{manifest.spec.num_classes} classes, {len(manifest.files)} files"
    )
    for fault in faults:
        _print(f"FAILED  {fault}")
    if not faults:
        console.print("digests: every file has the SHA-256 that the manifest names")
    if signature is None:
        console.print("signature: good")
    else:
        _print(f"FAILED  signature: {signature}" if asked else f"signature: {signature}")


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
    return tuple(found)


def _say(state: BackendState) -> None:
    name = f"{state.backend:<16}{state.precision.value:<6}"
    if state.comparison is None:
        words = state.failure or state.state.value + (f": {state.reason}" if state.reason else "")
        _print(f"{'FAILED  ' if state.failure else ''}{name}{words}")
        return
    comparison = state.comparison
    pixels = f"{comparison.flips:,} of {comparison.images.pixels:,} pixels have another class"
    if comparison.passed:
        console.print(f"{name}same masks by the gate of `parity`: {pixels}")
        return
    console.print(f"FAILED  {name}other masks: {pixels}")
    for check in comparison.checks:
        if not check.passed:
            _print(f"        {check.name}: {check.sentence}")
    for sentence in comparison.diagnosis:
        _print(f"        {sentence}")


def _print(line: str) -> None:
    console.print(printable(line))
