"""Drafts: plans that TensorRT has built and whose layers are not counted yet.

    fcn.fp16.trt-10.16.1.11.sm89.1f3a9c02.plan.unverified        while its layers are counted
    fcn.fp16.trt-10.16.1.11.sm89.1f3a9c02.plan.unverified.json   what its sidecar is to say
    fcn.fp16.trt-10.16.1.11.sm89.plan.unverified                 a plan that was refused

Each build has a name of its own, so that two at once do not take each other's plan.  It holds a
lock on its draft's sidecar, which the system lets go of when the process ends, however it ends: a
draft that nobody has locked was left behind, and the next build of the same engine takes it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import atomic_path, json_bytes, write_error
from fcn_deploy.tensorrt.engine_file import (
    REPAIR,
    EngineSidecar,
    read_engine,
    read_sidecar,
    sidecar_path,
)

try:
    import fcntl
except ImportError:  # Windows: a draft there always counts as left behind
    fcntl = None  # type: ignore[assignment]

_UNVERIFIED = ".unverified"
_TOKEN_BYTES = 4


class Draft:
    """A plan on disk that has no name of an engine yet, held by this process; a context manager.

    Attributes:
        place: where the engine is to lie.
        plan: where its plan lies.
        sidecar: what is known of it, its layers as they are told without loading it.
    """

    def __init__(self, place: Path, plan: Path, sidecar: EngineSidecar, lock: BinaryIO) -> None:
        self.place = place
        self.plan = plan
        self.sidecar = sidecar
        self._lock = lock

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the draft; where it still is, the next build of the engine may take it."""
        self._lock.close()

    def accept(self, layers: dict[str, int], layers_from: str) -> EngineSidecar:
        """Give the plan its name and sidecar; until both are whole, an older engine stays.

        Args:
            layers: number of layers by precision.
            layers_from: who counted them.

        Returns:
            The sidecar as written.

        Raises:
            ArtifactError: the folder cannot be written, the disk is full, or somebody has taken
                the plan away; but for that the draft stays.
        """
        sidecar = replace(self.sidecar, layers=layers, layers_from=layers_from)
        voucher = sidecar_path(self.place)
        with atomic_path(voucher, flags="--out") as temporary:
            temporary.write_bytes(json_bytes(sidecar.to_json()))
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            if not self.plan.is_file():  # asked before the older engine's sidecar goes
                raise ArtifactError(f"{self.plan} went while its layers were counted", REPAIR)
            # A crash from here on leaves a plan without a sidecar, never beside that of another.
            voucher.unlink(missing_ok=True)
            os.replace(self.plan, self.place)
        self._forget()
        _clear_away(self.place)
        return sidecar

    def refuse(self) -> None:
        """Leave the plan under the name of a refused one, which no build takes.

        Raises:
            ArtifactError: it cannot be moved there.
        """
        refused = refused_path(self.place)
        try:
            os.replace(self.plan, refused)
        except OSError as error:
            raise write_error(refused, error, flags="--out") from error
        self._forget()

    def _forget(self) -> None:
        with suppress(OSError):
            sidecar_path(self.plan).unlink()


def refused_path(place: Path) -> Path:
    """Return where the plan of an engine lies that was refused."""
    return place.with_name(f"{place.name}{_UNVERIFIED}")


def write_draft(place: Path, plan: memoryview, sidecar: EngineSidecar) -> Draft:
    """Write a plan and the draft of its sidecar, each whole, before anything is asked of it.

    Args:
        place: where the engine is to lie.
        plan: what TensorRT wrote.
        sidecar: all that is to be said of it but the plan's digest and size.

    Raises:
        ArtifactError: the folder cannot be written, or the disk is full.
    """
    token = secrets.token_hex(_TOKEN_BYTES)
    path = place.with_name(f"{place.stem}.{token}{place.suffix}{_UNVERIFIED}")
    with atomic_path(path, flags="--out") as temporary:
        temporary.write_bytes(plan)
    digest = f"sha256:{hashlib.sha256(plan).hexdigest()}"
    sidecar = replace(sidecar, plan_digest=digest, plan_bytes=plan.nbytes)
    try:
        with atomic_path(sidecar_path(path), flags="--out") as temporary:
            temporary.write_bytes(json_bytes(sidecar.to_json()))
            # Locked before it has its name: nobody takes it in between.
            lock = _taken(temporary)
    except ArtifactError:
        with suppress(OSError):  # no build would find it
            path.unlink()
        raise
    assert lock is not None  # nobody else knows the name
    return Draft(place, path, sidecar, lock)


def take_draft(place: Path, fits: Callable[[EngineSidecar], bool]) -> Draft | None:
    """Return a draft that a build of this engine left behind, or None.

    Args:
        place: where the engine is to lie.
        fits: says whether what was built is what is wanted.
    """
    for draft in _left_behind(place):
        with suppress(ArtifactError):  # damaged, or gone: it is built anew
            if fits(draft.sidecar) and read_engine(draft.plan) == draft.sidecar:
                return draft
        draft.close()
    return None


def _left_behind(place: Path) -> Iterator[Draft]:
    """Yield the drafts of an engine that no process holds; each is this one's then."""
    token = "[0-9a-f]" * (2 * _TOKEN_BYTES)
    pattern = f"{glob.escape(place.stem)}.{token}{place.suffix}{_UNVERIFIED}.json"
    for path in sorted(place.parent.glob(pattern)):
        lock = _taken(path)
        if lock is None:
            continue
        plan = path.with_suffix("")
        try:
            sidecar = read_sidecar(plan)
        except ArtifactError:
            lock.close()
            continue
        yield Draft(place, plan, sidecar, lock)


def _taken(path: Path) -> BinaryIO | None:
    """Open a draft's sidecar for this process alone; None: it is gone, or another one's."""
    try:
        stream = path.open("rb")
    except OSError:
        return None
    if fcntl is None:
        stream.close()  # an open file could not be moved there
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    except OSError:  # a file system without locks
        pass
    return stream


def _clear_away(place: Path) -> None:
    """Remove what earlier builds of an engine left beside it."""
    with suppress(OSError):
        refused_path(place).unlink(missing_ok=True)
        for draft in _left_behind(place):
            with draft:
                draft.plan.unlink(missing_ok=True)
                sidecar_path(draft.plan).unlink(missing_ok=True)
