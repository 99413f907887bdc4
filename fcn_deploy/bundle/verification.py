"""What of a bundle holds on this machine: files, signature, backends, and its masks.

    bundle ─▶ digests ─▶ signature ─▶ backends: runs / must be rebuilt / cannot run here
                                          └─ asked to run ─▶ the gate of `parity` by the certificate

Nothing of it is loaded before the digests hold, and the signature where it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from fcn_deploy.bundle.certificate import Certificate
from fcn_deploy.bundle.extraction import precisions
from fcn_deploy.bundle.manifest import Manifest
from fcn_deploy.core.errors import (
    ArtifactError,
    BackendError,
    FcnDeployError,
    OnnxFileError,
    UnfitNetworkError,
)
from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.machine import cuda
from fcn_deploy.parity.candidate import Candidate
from fcn_deploy.parity.compare import compare
from fcn_deploy.results.environment import Environment, result_header
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.parity import Comparison
from fcn_deploy.runners.base import BACKENDS, Runner, find_backend
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.engine_file import read_engine
from fcn_deploy.tensorrt.engine_match import check_belongs, installed_products

VERIFY_SCHEMA = 1
#: Opens a backend on a file of a precision for some outputs; builds an engine that is missing.
Open = Callable[[str, Precision, tuple[str, ...]], Runner]


class State(str, Enum):
    """Whether a backend runs a bundle's file here."""

    RUNS = "runs"
    REBUILD = "must be rebuilt"
    CANNOT = "cannot run here"


@dataclass(frozen=True)
class BackendState:
    """Whether a backend runs a bundle's file here, and with which masks.

    Attributes:
        backend: its name.
        precision: of the file.
        state: whether it runs.
        reason: why not; None where it runs.
        comparison: of its masks with the certificate's; None where that was not asked for.
        failure: what went wrong while they were computed, or None.
        refused: whether it was to compute them, and does not take the network.
    """

    backend: str
    precision: Precision
    state: State
    reason: str | None = None
    comparison: Comparison | None = None
    failure: str | None = None
    refused: bool = False

    @property
    def proven(self) -> bool:
        """Whether its masks passed the gate here."""
        return self.comparison is not None and self.comparison.passed

    @property
    def failed(self) -> bool:
        """Whether its masks were asked for, and are wrong or could not be had."""
        return self.failure is not None or (
            self.comparison is not None and not self.comparison.passed
        )

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "backend": self.backend,
            "precision": self.precision.value,
            "state": self.state.value,
            "reason": self.reason,
            "failure": self.failure,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        bundle: the archive.
        digest: ``sha256:…`` of it.
        faults: files that are damaged or contradict the manifest: sentences.
        signature: None where it was asked for and holds; else why it does not, or was not checked.
        signature_asked: whether it was asked for.
        key: ``sha256:…`` of the public key's file by which the signature holds, or None.
        ran: whether masks were asked for.
        backends: empty where a fault, or the signature, kept all from being loaded.
    """

    bundle: Path
    digest: str
    faults: tuple[str, ...]
    signature: str | None
    signature_asked: bool
    key: str | None
    ran: bool
    backends: tuple[BackendState, ...]

    @property
    def holds(self) -> bool:
        """Whether all that was asked for holds."""
        if self.faults or (self.signature_asked and self.signature is not None):
            return False
        if any(backend.failed for backend in self.backends):
            return False
        return not self.ran or (bool(self.backends) and not self.unproven)

    @property
    def unproven(self) -> tuple[Precision, ...]:
        """Precisions whose masks were asked for, and that no backend has proven.

        Where no backend that works here takes any of the files, that is float32.
        """
        asked = [one for one in self.backends if one.state is not State.CANNOT or one.refused]
        proven = {backend.precision for backend in self.backends if backend.proven}
        precisions = dict.fromkeys(one.precision for one in asked) or {Precision.FP32: None}
        return tuple(precision for precision in precisions if precision not in proven)

    def to_json(self) -> dict[str, Any]:
        """Return a result file's content."""
        return {
            **result_header("verify", VERIFY_SCHEMA),
            "bundle": str(self.bundle),
            "digest": self.digest,
            "faults": list(self.faults),
            "signature": {
                "asked": self.signature_asked,
                "holds": self.signature_asked and self.signature is None,
                "reason": self.signature,
                "key": self.key,
            },
            "ran": self.ran,
            "backends": [backend.to_json() for backend in self.backends],
            "holds": self.holds,
        }


def verified_before(record: Path, bundle: Path, *, key: Path | None) -> bool:
    """Say whether a result file says that this bundle holds on this machine, masks included.

    Args:
        record: written from :meth:`Verification.to_json`.
        bundle: the archive, which must not have changed since.
        key: public key by which its signature must have been checked; None: it need not.

    Raises:
        ArtifactError: the record, the bundle or the key cannot be read.
    """
    fields = Fields(read_json(record, "verify again"), record, "verify again")
    if fields.values.get("kind") != "verify" or fields.values.get("schema") != VERIFY_SCHEMA:
        return False
    then, now = Environment.from_fields(fields, record.name), Environment.current()
    return (
        then.same_machine(now)
        and then.versions == now.versions
        and fields.text("digest") == file_digest(bundle)
        and fields.flag("ran")
        and fields.flag("holds")
        and (key is None or _signed_by(fields.child("signature"), key))
    )


def _signed_by(signature: Fields, key: Path) -> bool:
    return signature.flag("holds") and signature.text_or_none("key") == file_digest(key)


def backend_states(
    run: Run, manifest: Manifest, backends: Sequence[str] = ()
) -> tuple[BackendState, ...]:
    """Return which backends run a bundle's files here, without loading any of them.

    Args:
        run: the bundle as a run; where it is not trusted, its engines are not considered.
        manifest: of the bundle.
        backends: to ask; none: all but those that are used on request only, and PyTorch, which
            runs checkpoints.
    """
    asked = backends or [
        name
        for name in BACKENDS
        if not find_backend(name).on_request and not name.startswith("torch")
    ]
    return tuple(
        state
        for name in asked
        for precision in precisions(manifest)
        for state in _states(name, precision, run, manifest)
    )


def _states(
    name: str, precision: Precision, run: Run, manifest: Manifest
) -> Iterator[BackendState]:
    backend = find_backend(name)
    if (reason := backend.unavailable_reason()) is not None:
        yield BackendState(name, precision, State.CANNOT, reason)
    elif name.startswith("torch"):
        yield BackendState(name, precision, State.CANNOT, "a bundle holds no checkpoint")
    elif not backend.takes(precision):
        yield BackendState(name, precision, State.CANNOT, f"it takes no {precision.value} files")
    elif backend.build_missing is None:
        yield BackendState(name, precision, State.RUNS)
    elif not run.trusted and manifest.engines:
        reason = "engines are code, and the bundle's signature was not checked: give --key"
        yield BackendState(name, precision, State.REBUILD, reason)
    else:
        yield engine_state(name, precision, run, manifest)


def engine_state(name: str, precision: Precision, run: Run, manifest: Manifest) -> BackendState:
    """Say whether one of a bundle's engines fits this machine, and if not, by which field."""
    capability = cuda.describe_gpu().compute_capability
    products, reason = installed_products(), "the bundle holds no engine for it"
    for engine in manifest.engines:
        plan = run.root / engine.file
        try:
            sidecar = read_engine(plan)
            if sidecar.precision is not precision:
                continue
            product = sidecar.product if sidecar.product in products else products[0]
            check_belongs(
                plan,
                sidecar,
                product=product,
                version=api.installed_version(product),
                compute_capability=capability,
            )
        except ArtifactError as error:
            reason = error.message.replace(str(plan), engine.file)
            continue
        return BackendState(name, precision, State.RUNS)
    return BackendState(name, precision, State.REBUILD, reason)


def proven_states(
    states: Sequence[BackendState],
    certificate: Certificate,
    open_one: Open,
    *,
    on_picture: Callable[[], None] = lambda: None,
) -> Iterator[BackendState]:
    """Compute the pictures of a certificate with each backend that runs, and judge its masks.

    Args:
        states: of the backends; those that cannot run are given back as they are.
        certificate: of the bundle.
        open_one: opens a backend, and builds the engine that must be rebuilt.
        on_picture: called after each picture.
    """
    for state in states:
        if state.state is State.CANNOT:
            yield state
            continue
        try:
            runner = open_one(state.backend, state.precision, ("mask", "logits"))
        except FcnDeployError as error:
            unfit = (BackendError, OnnxFileError) if certificate.imported else UnfitNetworkError
            if isinstance(error, unfit):
                yield replace(state, state=State.CANNOT, reason=error.message, refused=True)
            else:
                yield replace(state, failure=" ".join(str(error).split()))
            continue
        try:
            with runner:
                comparison = certified(runner, state, certificate, open_one, on_picture=on_picture)
            yield replace(state, comparison=comparison)
        except FcnDeployError as error:
            yield replace(state, failure=" ".join(str(error).split()))


def certified(
    runner: Runner,
    state: BackendState,
    certificate: Certificate,
    open_one: Open,
    *,
    on_picture: Callable[[], None] = lambda: None,
) -> Comparison:
    """Hold a backend's masks against a certificate, with the gate of `parity`.

    Args:
        runner: of the backend, opened for ``mask`` and ``logits``.
        state: of the backend.
        certificate: of the bundle.
        open_one: opens the backend as it ships.
        on_picture: called after each picture.

    Raises:
        FcnDeployError: the backend fails, or the certificate is damaged.
    """
    candidate = Candidate(runner, lambda: open_one(state.backend, state.precision, ("mask",)))
    with certificate.runner() as reference:
        (comparison,) = compare(
            reference, [candidate], certificate.pictures(), can_rerun=False, on_picture=on_picture
        )
    return comparison
