"""The RUN argument of a command as a Run, and the names of result files in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run


def run_from_argument(run: str | None, trust: bool) -> Run:
    """Return the run that was named; ``trust`` lets its engine load without a sidecar."""
    return dataclasses.replace(Run.from_argument(run), trusted=trust)


def result_name(*parts: object) -> str:
    """Return a file name for a result, so that one of other inputs never replaces it."""
    words = [str(part.name if isinstance(part, Path) else part) for part in parts if part]
    return ".".join(words) + ".json"


def trained_on(source: Run, repair: str) -> str:
    """Return what the run was trained on, for :func:`fcn_deploy.data.sources.open_dataset`.

    Args:
        source: the run.
        repair: what the user may name instead.

    Raises:
        MissingStageError: the run has no training figures.
        ArtifactError: they are damaged.
        InputError: they name no data, or data that is not there any more.
    """
    from fcn_deploy.results.read import read_training

    recorded = read_training(source, repair).data_argument
    if recorded is None:
        raise InputError(f"{source.metrics} does not say what it was trained on", repair)
    if recorded != "synthetic" and not Path(recorded).is_dir():
        raise InputError(f"the data of {source.metrics}, {recorded}, is not there", repair)
    return recorded
