"""Folders that cost seconds to make, made by the first of pytest-xdist's workers that needs one."""

import os
from collections.abc import Callable
from pathlib import Path


def made_once(parent: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that is shared by all workers of a session: read it, do not change it.

    Args:
        parent: of the folder; the workers' own.
        name: of the folder.
        make: fills it, given where it lies while it is made; called once in all workers.
    """
    folder = parent / name
    with (parent / f"{name}.lock").open("w") as lock:
        _wait_for(lock.fileno())
        if not folder.is_dir():
            unfinished = parent / f"{name}.unfinished"
            unfinished.mkdir()
            make(unfinished)
            os.replace(unfinished, folder)
    return folder


def _wait_for(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where the suite runs in one process
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # let go when the file is closed
